import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from knowcusbench.adaptation.released import load_released
from knowcusbench.adapters.diffusers_lora import read_diffusers_lora
from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Concept
from knowcusbench.errors import MethodError, WeightsError

NEW = ("lora_A.weight", "lora_B.weight")
OLD = ("lora.down.weight", "lora.up.weight")


def factors(backbone: DiffusersBackbone) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(3, 128, generator=generator), torch.randn(128, 3, generator=generator))
        for name in backbone.lora_targets[:3]
    }


def write(
    path: Path,
    modules: dict[str, tuple[Tensor, Tensor]],
    endings: tuple[str, str],
    alphas: dict[str, float] | None = None,
    metadata: dict[str, object] | None = None,
) -> Path:
    tensors = {}
    for name, pair in modules.items():
        tensors |= {f"transformer.{name}.{ending}": tensor for ending, tensor in zip(endings, pair, strict=True)}
    tensors |= {f"transformer.{name}.alpha": torch.tensor(alpha) for name, alpha in (alphas or {}).items()}
    header = {"format": "pt"} | ({"lora_adapter_metadata": json.dumps(metadata)} if metadata else {})
    save_file(tensors, path, metadata=header)
    return path


@pytest.mark.parametrize("endings", [NEW, OLD])
@pytest.mark.parametrize(
    ("alphas", "metadata", "scaling"),
    [
        (None, None, 1.0),
        (None, {"transformer.r": 3, "transformer.lora_alpha": 6}, 2.0),
        (1.5, None, 0.5),
        (1.5, {"transformer.r": 3, "transformer.lora_alpha": 3}, 0.5),
    ],
    ids=["alpha is the rank", "metadata", "alpha keys", "alpha keys beside metadata that scales by 1"],
)
def test_a_released_lora_adds_its_scaled_product(
    backbone_fp32: DiffusersBackbone,
    tmp_path: Path,
    endings: tuple[str, str],
    alphas: float | None,
    metadata: dict[str, object] | None,
    scaling: float,
) -> None:
    modules = factors(backbone_fp32)
    each = None if alphas is None else dict.fromkeys(modules, alphas)
    path = write(tmp_path / "pytorch_lora_weights.safetensors", modules, endings, each, metadata)

    with backbone_fp32.adapted(Adaptation(transformer=read_diffusers_lora(path))):
        for name, (down, up) in modules.items():
            layer = backbone_fp32.transformer.get_submodule(name)
            x = torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
            wanted = layer.get_base_layer()(x) + scaling * (x @ down.T @ up.T)
            assert torch.allclose(layer(x), wanted, rtol=1e-4, atol=1e-4)


def test_diffusers_own_file_is_read(backbone_fp32: DiffusersBackbone, tmp_path: Path) -> None:
    """The file is written by the pipeline that made the release."""
    from diffusers import QwenImagePipeline

    modules = factors(backbone_fp32)
    state = {}
    for name, pair in modules.items():
        state |= {f"{name}.{ending}": tensor for ending, tensor in zip(NEW, pair, strict=True)}
    QwenImagePipeline.save_lora_weights(tmp_path, transformer_lora_layers=state)

    adapter = read_diffusers_lora(tmp_path / "pytorch_lora_weights.safetensors")

    assert adapter.weights.keys() == state.keys()
    assert all(torch.equal(adapter.weights[name], tensor) for name, tensor in state.items())


def test_a_concept_with_a_checkpoint_gets_it(backbone_fp32: DiffusersBackbone, dog: Concept, tmp_path: Path) -> None:
    write(tmp_path / "pytorch_lora_weights.safetensors", factors(backbone_fp32), NEW)
    found = load_released(replace(dog, visual_checkpoint=tmp_path))
    assert found.transformer is not None
    assert set(found.transformer.config["target_modules"]) == set(factors(backbone_fp32))


def test_a_concept_without_a_checkpoint_is_named(dog: Concept) -> None:
    with pytest.raises(MethodError, match="dog3"):
        load_released(dog)


KINDS = {
    "plain": {},
    "alpha": {"lora_alpha": 6},
    "root of the rank": {"lora_alpha": 6, "use_rslora": True},
    "alpha by ending": {"lora_alpha": 6, "alpha_pattern": {"to_k": 12}},
    "alpha by full name": {"lora_alpha": 6, "alpha_pattern": {r"^transformer_blocks\.0\.attn\.to_k": 12, "to_q": 1}},
    "both": {"lora_alpha": 6, "alpha_pattern": {"to_k": 12}, "use_rslora": True},
    "start": {"lora_alpha": 6, "init_lora_weights": "gaussian", "lora_dropout": 0.1, "bias": "none"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_the_strength_is_that_of_diffusers(
    backbone_fp32: DiffusersBackbone, tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    from diffusers import QwenImagePipeline

    names = [f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "add_q_proj")]
    generator = torch.Generator().manual_seed(0)
    modules = {
        name: tuple(torch.randn(shape, generator=generator).to(dtype) for shape in ((3, 128), (128, 3)))
        for name in names
    }
    fields = {"r": 3, "lora_alpha": 3, "target_modules": names} | KINDS[kind]
    metadata = {f"transformer.{name}": value for name, value in fields.items()} if KINDS[kind] else None
    path = write(tmp_path / "pytorch_lora_weights.safetensors", modules, NEW, metadata=metadata)

    theirs = deepcopy(backbone_fp32.transformer)
    state, said = QwenImagePipeline.lora_state_dict(path, return_lora_metadata=True)
    theirs.load_lora_adapter({name: tensor.float() for name, tensor in state.items()}, metadata=said, adapter_name="x")
    adapter = read_diffusers_lora(path)

    for name in names:
        ours = adapter.weights[f"{name}.lora_B.weight"] @ adapter.weights[f"{name}.lora_A.weight"]
        torch.testing.assert_close(ours, theirs.get_submodule(name).get_delta_weight("x"), rtol=1e-5, atol=1e-5)


def test_mixed_ranks_have_the_strength_of_diffusers(backbone_fp32: DiffusersBackbone, tmp_path: Path) -> None:
    from diffusers import QwenImagePipeline

    names = [f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k")]
    modules = {name: (torch.randn(rank, 128), torch.randn(128, rank)) for name, rank in zip(names, (2, 5), strict=True)}
    fields = {"r": 2, "lora_alpha": 6, "rank_pattern": {"to_k": 5}, "target_modules": names}
    for metadata in (None, {f"transformer.{name}": value for name, value in fields.items()}):
        path = write(tmp_path / "pytorch_lora_weights.safetensors", modules, NEW, metadata=metadata)
        theirs = deepcopy(backbone_fp32.transformer)
        state, said = QwenImagePipeline.lora_state_dict(path, return_lora_metadata=True)
        theirs.load_lora_adapter(state, metadata=said, adapter_name="x")
        adapter = read_diffusers_lora(path)
        for name in names:
            ours = adapter.weights[f"{name}.lora_B.weight"] @ adapter.weights[f"{name}.lora_A.weight"]
            torch.testing.assert_close(ours, theirs.get_submodule(name).get_delta_weight("x"), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("lora_bias", True),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("modules_to_save", ["proj_out"]),
        ("fan_in_fan_out", True),
        ("bias", "all"),
        ("never_heard_of", 1),
        ("r", 4),
        ("rank_pattern", {"to_q": 4, "add_q_proj": 4, "to_k": 4}),
        ("lora_alpha", 0),
    ],
)
def test_metadata_that_changes_the_meaning_is_refused_by_its_field(tmp_path: Path, field: str, value: object) -> None:
    modules = {"blocks.0.to_k": (torch.ones(3, 8), torch.ones(8, 3))}
    metadata = {f"transformer.{name}": said for name, said in ({"r": 3, "lora_alpha": 3} | {field: value}).items()}
    path = write(tmp_path / "x.safetensors", modules, NEW, metadata=metadata)
    with pytest.raises(WeightsError, match=f"^{path}: .*({field}|alpha of blocks|metadata says)"):
        read_diffusers_lora(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"{}.lora_B.weight": torch.full((8, 3), torch.nan)}, r"to_k\.lora_B\.weight has NaN"),
        ({"{}.lora_A.weight": torch.full((3, 8), -torch.inf)}, r"to_k\.lora_A\.weight has NaN or infinity"),
        ({"{}.lora_A.weight": torch.ones(3, 8, dtype=torch.int8)}, r"to_k\.lora_A\.weight is in int8"),
        ({"{}.alpha": torch.tensor(0.0)}, "the alpha of blocks.0.to_k is 0"),
        ({"{}.alpha": torch.ones(3)}, r"alpha has shape \(3,\)"),
        ({"transformer.other.alpha": torch.tensor(1.0)}, r"other\.alpha belongs to no LoRA"),
        ({"{}.lora_magnitude_vector": torch.ones(8)}, "is not part of a transformer's LoRA"),
        ({"lora_unet_blocks_0_to_k.lora_down.weight": torch.ones(3, 8)}, "a name of kohya-ss or musubi-tuner"),
        ({"diffusion_model.blocks.0.to_q.lora_A.weight": torch.ones(3, 8)}, "a name of ai-toolkit or ComfyUI"),
        ({"base_model.model.blocks.0.to_q.lora_A.weight": torch.ones(3, 8)}, "a name of PEFT"),
        ({"blocks.0.to_q.lora_A.default.weight": torch.ones(3, 8)}, "a name of PEFT or DiffSynth"),
        ({"blocks.0.to_q.lora_down.weight": torch.ones(3, 8)}, "a name of lightx2v"),
        ({"text_encoder.blocks.0.to_q.lora_A.weight": torch.ones(3, 8)}, "belongs to a text encoder"),
    ],
)
def test_tensors_that_are_no_plain_lora_are_named(tmp_path: Path, changes: dict[str, Tensor], message: str) -> None:
    own = "transformer.blocks.0.to_k"
    tensors = {f"{own}.lora_A.weight": torch.ones(3, 8), f"{own}.lora_B.weight": torch.ones(8, 3)}
    save_file(tensors | {name.format(own): tensor for name, tensor in changes.items()}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=message):
        read_diffusers_lora(tmp_path / "x.safetensors")


def test_a_lora_that_does_nothing_has_a_note(dog: Concept, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "x.safetensors", {"blocks.0.to_k": (torch.ones(3, 8), torch.zeros(8, 3))}, NEW)
    found = load_released(replace(dog, visual_checkpoint=tmp_path))
    assert "changes nothing" in found.details["note"]
    assert "x.safetensors: all of its lora_B are zero" in capsys.readouterr().err


def test_the_one_visible_file_of_the_folder_counts(dog: Concept, tmp_path: Path) -> None:
    modules = {"blocks.0.to_k": (torch.ones(3, 8), torch.ones(8, 3))}
    (tmp_path / "checkpoint-500").mkdir()
    below = write(tmp_path / "checkpoint-500" / "x.safetensors", modules, NEW)
    with pytest.raises(WeightsError, match=r"found 0; move one of checkpoint-500/x\.safetensors there"):
        load_released(replace(dog, visual_checkpoint=tmp_path))
    (tmp_path / "._x.safetensors").write_bytes(b"of macOS")
    below.rename(tmp_path / "x.safetensors")
    assert load_released(replace(dog, visual_checkpoint=tmp_path)).details["released"] == "x.safetensors"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.safetensors", b"not a checkpoint"),
        ("x.bin", b"a pickle"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
    ],
    ids=["damaged", "no safetensors", "lfs"],
)
def test_a_checkpoint_that_cant_be_read_is_named(dog: Concept, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=str(tmp_path)):
        load_released(replace(dog, visual_checkpoint=tmp_path))


@pytest.mark.parametrize("missing", [0, 1], ids=["down", "up"])
def test_half_a_pair_of_factors_is_named(backbone_fp32: DiffusersBackbone, tmp_path: Path, missing: int) -> None:
    modules = factors(backbone_fp32)
    tensors = {f"transformer.{name}.{NEW[k]}": pair[k] for name, pair in modules.items() for k in (0, 1)}
    victim = next(iter(modules))
    del tensors[f"transformer.{victim}.{NEW[missing]}"]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=victim):
        read_diffusers_lora(tmp_path / "x.safetensors")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_file({"transformer.proj.weight": torch.ones(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"proj\.weight"):
        read_diffusers_lora(tmp_path / "x.safetensors")


def test_a_released_lora_with_nan_is_refused_with_its_tensors_name(backbone: DiffusersBackbone, tmp_path: Path) -> None:
    found = factors(backbone)
    name = next(iter(found))
    found[name][1][2, 1] = float("nan")
    with pytest.raises(WeightsError, match=rf"lora.safetensors: transformer.{name}.lora_B.weight has NaN"):
        read_diffusers_lora(write(tmp_path / "lora.safetensors", found, NEW))
