import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from knowcusbench.adaptation.released import load_released, read_diffusers_lora
from knowcusbench.adaptation.types import Adaptation
from knowcusbench.backbone.qwen_image_model import QwenImage
from knowcusbench.benchmark.types import Concept
from knowcusbench.errors import MethodError, WeightsError

NEW = ("lora_A.weight", "lora_B.weight")
OLD = ("lora.down.weight", "lora.up.weight")


def factors(backbone: QwenImage) -> dict[str, tuple[Tensor, Tensor]]:
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
        (1.5, {"transformer.r": 3, "transformer.lora_alpha": 6}, 0.5),
    ],
    ids=["alpha is the rank", "metadata", "alpha keys", "alpha keys before metadata"],
)
def test_a_released_lora_adds_its_scaled_product(
    backbone_fp32: QwenImage,
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


def test_diffusers_own_file_is_read(backbone_fp32: QwenImage, tmp_path: Path) -> None:
    """Written by the pipeline that the release was made with."""
    from diffusers import QwenImagePipeline

    modules = factors(backbone_fp32)
    state = {}
    for name, pair in modules.items():
        state |= {f"{name}.{ending}": tensor for ending, tensor in zip(NEW, pair, strict=True)}
    QwenImagePipeline.save_lora_weights(tmp_path, transformer_lora_layers=state)

    adapter = read_diffusers_lora(tmp_path / "pytorch_lora_weights.safetensors")

    assert adapter.weights.keys() == state.keys()
    assert all(torch.equal(adapter.weights[name], tensor) for name, tensor in state.items())


def test_a_concept_with_a_checkpoint_gets_it(backbone_fp32: QwenImage, dog: Concept, tmp_path: Path) -> None:
    write(tmp_path / "pytorch_lora_weights.safetensors", factors(backbone_fp32), NEW)
    found = load_released(replace(dog, visual_checkpoint=tmp_path))
    assert found.transformer is not None
    assert set(found.transformer.config["target_modules"]) == set(factors(backbone_fp32))


def test_a_concept_without_a_checkpoint_is_named(dog: Concept) -> None:
    with pytest.raises(MethodError, match="dog3"):
        load_released(dog)


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.safetensors", b"not a checkpoint"), ("x.bin", b"a pickle")],
    ids=["damaged", "no safetensors"],
)
def test_a_checkpoint_that_cant_be_read_is_named(dog: Concept, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=str(tmp_path)):
        load_released(replace(dog, visual_checkpoint=tmp_path))


@pytest.mark.parametrize("missing", [0, 1], ids=["down", "up"])
def test_half_a_pair_of_factors_is_named(backbone_fp32: QwenImage, tmp_path: Path, missing: int) -> None:
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


def test_a_released_lora_with_nan_is_refused_with_its_tensors_name(backbone: QwenImage, tmp_path: Path) -> None:
    found = factors(backbone)
    name = next(iter(found))
    found[name][1][2, 1] = float("nan")
    with pytest.raises(WeightsError, match=rf"lora.safetensors: transformer.{name}.lora_B.weight has NaN"):
        read_diffusers_lora(write(tmp_path / "lora.safetensors", found, NEW))
