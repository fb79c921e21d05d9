"""The timings of a GPU, with small shapes on the CPU."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from knowcusbench.backbone import QwenImageSpec
from knowcusbench.gpu.benchmark import main
from knowcusbench.gpu.models import full_size, image_size, random_backbone, small_size
from knowcusbench.gpu.table import markdown
from knowcusbench.gpu.timing import Rates, forward_flops

pytestmark = pytest.mark.model

SPEC = QwenImageSpec(source="random", dtype="float32", height=64, width=64, steps=2, device="cpu")


def test_the_floor_is_the_longer_of_computing_and_reading() -> None:
    rates = Rates(bf16=100e12, fp32=10e12, bandwidth=1e12)
    assert rates.floor(200e12, 1e12, torch.bfloat16) == (2.0, "200 TFLOP")
    assert rates.floor(200e12, 1e12, torch.float32) == (20.0, "200 TFLOP")
    assert rates.floor(1e12, 3e12, torch.bfloat16) == (3.0, "3e+03 GB")


def test_steps_leave_lines_and_a_table_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "lines.jsonl"
    with pytest.raises(SystemExit) as ended:
        main(["--device", "cpu", "--output", str(output), "--steps", "2", "--only", "B1", "B5"])
    assert ended.value.code == 0
    lines = [json.loads(text) for text in output.read_text(encoding="utf-8").splitlines()]
    timed = [line for line in lines if "seconds" in line]
    assert {line["step"] for line in timed} == {"B1", "B5"}
    assert all(line["seconds"] > 0 and line["peak_memory_bytes"] > 0 for line in timed)
    assert all(line["ok"] for line in lines if line["what" if "what" in line else "step"].startswith("bytes of"))
    (batch,) = [line for line in timed if line["what"].startswith("a batch")]
    assert batch["seconds"] > batch["floor"] > 0
    printed = capsys.readouterr().out
    assert "Small shapes on a CPU" in printed
    main(["--table", str(output)])
    assert capsys.readouterr().out == printed


def test_the_table_tells_times_of_the_floor_and_what_went_wrong() -> None:
    machine = {"step": "machine", "full_size": True, "gpus": ["NVIDIA H100"], "torch": "2.14", "dtype": "bfloat16"}
    timed = {"step": "B6", "what": "LoRA step", "seconds": 0.6, "spread": 0.02, "floor": 0.3, "bound": "210 TFLOP"}
    memory = {"peak_memory_bytes": 60 * 2**30, "estimated_bytes": 50 * 2**30}
    lines = [
        machine,
        timed | memory,
        {"step": "B9", "skipped": "too late"},
        {"step": "B4", "error": "OutOfMemoryError: x"},
    ]
    table = markdown(lines).splitlines()
    assert table[0] == "NVIDIA H100, torch 2.14, bfloat16"
    assert "| B6 | LoRA step | 0.6 | 2% | 0.3 | 2.00 | 210 TFLOP | 60.0 GiB | 120% |" in table
    assert table[-2:] == ["- B9: too late", "- B4: OutOfMemoryError: x"]


@pytest.mark.parametrize("prompt", ["a dog", "a photo of sks dog on the beach"])
def test_the_operations_of_a_pass_are_those_of_the_prompt_that_is_timed(prompt: str) -> None:
    """Counted while the transformer runs, without the CPU's fused attention, which the counter does not see."""
    size = small_size()
    backbone = random_backbone(size, replace(SPEC, gradient_checkpointing=False), torch.device("cpu"))
    embeds = backbone.encode(prompt)
    edge = 2 * size.image // size.checkpoint.pixels_per_token
    latents = torch.randn(1, size.checkpoint.vae["z_dim"], edge, edge)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.velocity(latents, torch.tensor([0.5]), embeds)
    assert forward_flops(size, embeds) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_random_weights_have_the_dtype_that_is_asked_for_and_draw_finite_images() -> None:
    size = small_size()
    backbone = random_backbone(size, SPEC, torch.device("cpu"))
    dtypes = {parameter.dtype for module in backbone.modules().values() for parameter in module.parameters()}
    assert dtypes == {torch.float32}
    embeds = backbone.encode("a photo")
    assert embeds.embeds.isfinite().all()
    velocity = backbone.velocity(torch.randn(1, size.checkpoint.vae["z_dim"], 8, 8), torch.tensor([0.5]), embeds)
    assert velocity.isfinite().all()
    assert velocity.std() > 0


@pytest.mark.parametrize("name", ["DINO ViT-S/16", "CLIP ViT-B/32"])
def test_the_encoders_at_full_size_are_the_published_ones(name: str) -> None:
    _, build = full_size().encoders[name]
    model = build()
    count = sum(parameter.numel() for parameter in model.parameters())
    # dino_vits16 has 21.7 M parameters, CLIP's image tower with projection 87.8 M.
    assert round(count / 1e6, 1) == {"DINO ViT-S/16": 21.7, "CLIP ViT-B/32": 87.8}[name]
    assert image_size(model) == (224, 224)
