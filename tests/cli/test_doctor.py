"""The doctor reports what is missing, and whether the configuration can run."""

import importlib.metadata
import json
import re
import shutil
from collections import namedtuple
from types import SimpleNamespace

import huggingface_hub.constants
import psutil
import pytest
import torch

from knowcusbench.backbone.base import Skeleton, unseen_layers
from knowcusbench.cli.doctor import Mark, _edit_targets, packages, weights
from knowcusbench.cli.main import main


@pytest.fixture
def consult(tmp_path, monkeypatch, capsys, sample_benchmark):
    """`consult("key=value")` -> (exit code, report, error line), without a network and with an empty hub cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def run(*words: str):
        try:
            main(["doctor", f"cache_dir={tmp_path}/cache", *words])
            code = 0
        except SystemExit as stop:
            code = stop.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_the_embedded_world_can_run(consult, tmp_path) -> None:
    code, report, error = consult()
    assert (code, error) == (0, "")
    titles = [line for line in report.splitlines() if not line.startswith(" ")]
    assert titles[:-1] == ["Python", "Hardware", "Hub and weights", "Model", "Memory", "Plan"]
    assert titles[-1] == "This configuration can run here."
    assert "  NO  " not in report
    assert "520 images" in report
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("rate", "dtype"), [(1e9, "float32"), (9e11, "bfloat16")])
def test_what_was_measured_is_shown_and_counted_with(consult, monkeypatch, rate, dtype) -> None:
    monkeypatch.setattr(
        "knowcusbench.machine.rates.product_rates", lambda _: {torch.float32: 8e10, torch.bfloat16: rate}
    )
    _, report, _ = consult("device=cpu", "method=base")
    shown = "1.00" if rate == 1e9 else "900"
    assert f"fp32 80, bf16 {shown} GFLOP/s on cpu: backbone.dtype=auto is {dtype}" in report
    assert f"at {0.08 if dtype == 'float32' else 0.9:g} TFLOP/s" in report
    # All parameters, and 1.8 MiB of intermediate values.
    encoding = float(re.search(r"encoding +([0-9.]+) MiB", report)[1])
    assert encoding > (40 if dtype == "float32" else 20)
    assert (encoding > 40) == (dtype == "float32")


def test_full_size_without_its_weights_is_explained(consult, sample_benchmark) -> None:
    code, report, error = consult(
        "backbone=qwen_image", "benchmark=directory", f"benchmark.path={sample_benchmark}", "device=cpu"
    )
    assert code == 2
    assert len(error.splitlines()) == 1
    assert "hf download Qwen/Qwen-Image" in error
    for text in ("20,430,401,088 parameters", "8,292,166,656 parameters", "240 layers", "16 matrices [(18944, 3584)]"):
        assert text in report
    assert "yuvalkirstain/PickScore_v1 is not on this machine" in report
    # 6 unrelated prompts x 2 seeds, without and with 4 adaptations; 4 concepts' 5 items x 5 seeds, with all of them.
    beside = 6 * 2 * 5 + 4 * 5 * 5
    assert f"650 images, {beside} more of the effects and 2,000 training passes" in report
    # 8-bit RGB, and prompts of 64 tokens of 3584 numbers in bf16: 4 concepts' items alone and in their prompts.
    prompts = 650 // 5
    assert f"{((650 + beside) * 3 * 1024**2 + prompts * 64 * 3584 * 2) / 2**30:.2f} GiB at most" in report


def test_a_run_in_an_object_store_is_no_matter_of_this_disk(consult) -> None:
    code, report, _ = consult("run.root=memory://runs")
    assert code == 0
    assert "MiB at most, at memory:/" in report


def on_a_gpu(monkeypatch, free: int) -> None:
    """Pretend that the machine has a GPU with this many free bytes."""
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=128 * 2**30))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, free))
    monkeypatch.setattr("knowcusbench.cli.doctor.fast_dtype", lambda _: "bfloat16")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA Test")
    monkeypatch.setattr(
        "knowcusbench.machine.rates.product_rates", lambda _: {torch.float32: 5e13, torch.bfloat16: 5e14}
    )


@pytest.mark.parametrize(
    ("free", "fits"),
    [
        (140, None),
        (60, None),
        (56, "backbone.offload=text_encoder"),
        (46, "backbone.offload=alternating"),
        (24, "backbone.offload=alternating backbone.vae_tile=256 backbone.quantization=torchao_float8"),
    ],
)
def test_an_option_is_named_that_makes_it_fit(consult, sample_benchmark, monkeypatch, free, fits) -> None:
    on_a_gpu(monkeypatch, free * 2**30)
    _, report, _ = consult("backbone=qwen_image", "benchmark=directory", f"benchmark.path={sample_benchmark}")
    assert "NVIDIA Test" in report
    assert "fp32 50,000, bf16 500,000 GFLOP/s on cuda: backbone.dtype=auto is bfloat16" in report
    assert "at 500 TFLOP/s" in report
    # 69.45 TFLOP a forward: 50 steps with guidance for each of 650 + 160 images, three for each training pass.
    hours = float(re.search(r"at least ([0-9.]+) hours on one device", report)[1])
    assert hours == pytest.approx((810 * 100 + 2000 * 3) * 69.45e12 / 500e12 / 3600, rel=0.03)
    line = next((line for line in report.splitlines() if line.startswith("  NO  memory")), None)
    assert (line is None) if fits is None else line.endswith(fits)
    # CLIP 0.56, SAM 2.39, Grounding DINO 0.87 and PickScore 3.67 GiB, and SAM's activations.
    assert (
        f"scoring                 {0.564 + 2.388 + 0.867 + 3.674 + 2148 / 1024:.2f} GiB without the backbone" in report
    )
    assert ("could be off here" in report) == (free == 140)


def test_main_memory_must_have_room_for_what_waits_there(consult, sample_benchmark, monkeypatch) -> None:
    on_a_gpu(monkeypatch, 80 * 2**30)
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=10 * 2**30))
    photos = ("benchmark=directory", f"benchmark.path={sample_benchmark}")
    _, report, _ = consult("backbone=qwen_image", "backbone.offload=text_encoder", *photos)
    assert "NO  main memory             15.45 GiB wait there, 10.00 GiB are free" in report


def test_a_wrong_layer_and_a_full_disk_are_told_with_everything_else(consult, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 10))
    code, report, error = consult("editor.layers=[3,99]")
    assert code == 2
    assert "layer 99: the text encoder has layers 0 to 5" in report
    assert "MiB at most, 0.00 MiB are free" in report
    assert "2 things missing" in error


def test_main_memory_counts_without_a_gpu(consult, monkeypatch) -> None:
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=2**20))
    code, report, _ = consult("device=cpu")
    assert code == 2
    assert "too little; this backbone wants a GPU" in report


def test_a_package_that_is_too_old_or_missing_names_the_command(monkeypatch) -> None:
    found = importlib.metadata.version

    def version(name: str) -> str:
        if name == "jinja2":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "peft" else found(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    missing = {finding.subject: finding.text for finding in packages("knowcusbench") if finding.mark is Mark.missing}
    assert missing == {
        "jinja2": 'not installed; pip install "jinja2>=3.1"',
        "peft": '0.1 is installed; pip install "peft>=0.18"',
    }


def test_a_checkpoint_in_the_cache_is_found_if_it_is_whole(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    snapshot = tmp_path / "models--owner--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    spec = SimpleNamespace(weight_files=list)
    metrics = {"clip_i": {"encoder": {"source": "owner/name", "revision": commit}}}

    def finding() -> str:
        return str(list(weights(spec, metrics))[-1])

    download = f"on one with a network: hf download owner/name --revision {commit}"
    assert finding() == f"  NO  metrics                 owner/name is here in part, without *.safetensors; {download}"
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model-00001-of-00002.safetensors").touch()
    assert f"owner/name is here in part, without model-00002-of-00002.safetensors; {download}" in finding()
    (snapshot / "model-00002-of-00002.safetensors").touch()
    assert finding() == f"  ok  metrics                 owner/name in the hub's cache ({snapshot})"


def test_a_processor_needs_no_weights_and_a_copy_in_part_is_told(tmp_path) -> None:
    for name in ("model", "processor"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    encoder = {"source": str(tmp_path / "model"), "processor": str(tmp_path / "processor")}
    *_, model, processor = weights(SimpleNamespace(weight_files=list), {"pickscore": {"encoder": encoder}})
    assert str(model).endswith(f"NO  metrics                 {tmp_path / 'model'} lacks *.safetensors; copy it again")
    assert processor.mark is Mark.ok


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([1, 2, 3], ""),
        ([3, 4, 5], "layers 4 to 5 change answers, no picture"),
        ([5], "layer 5 changes answers, no picture"),
        ([0], "layer 0 changes answers, no picture"),
        ([5, 0], "layers 0, 5 change answers, no picture"),
    ],
)
def test_an_edit_that_reaches_no_picture_is_a_warning(layers: list[int], said: str) -> None:
    reach = (0.0, 1.0, 1.0, 0.5, 0.0, 0.0)
    assert unseen_layers(reach, layers) == said
    encoder = torch.nn.ModuleDict({f"{n}": torch.nn.Linear(2, 3) for n in range(6)})
    skeleton = Skeleton("", {}, encoder, encoder, (), 6, reach, lambda names, layers: tuple(map(str, layers)))
    found = list(_edit_targets(skeleton, {"modules": ["up_proj"], "layers": layers}))
    assert [(finding.mark, finding.text) for finding in found[1:]] == ([(Mark.warning, said)] if said else [])
    assert found[0].mark is Mark.ok
