"""Trained on one checkpoint, drawn with the transformer of a sibling."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone import QwenImageSpec, StepLora
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.errors import ConfigError, WeightsError
from knowcusbench.testing.tiny import tiny_qwen_image

pytestmark = pytest.mark.model

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> QwenImageSpec:
    directory = tmp_path_factory.mktemp("drawing") / "base"
    tiny_qwen_image(directory)
    return QwenImageSpec(source=str(directory), dtype="float32", height=32, width=32, steps=2)


@pytest.fixture(scope="module")
def sibling(base: QwenImageSpec) -> Path:
    """The same pipeline with another transformer."""
    copy = Path(base.source).with_name("sibling")
    shutil.copytree(base.source, copy)
    weights = load_file(copy / TRANSFORMER)
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, copy / TRANSFORMER, {"format": "pt"})
    return copy


@pytest.fixture(scope="module")
def both(base: QwenImageSpec, sibling: Path) -> DiffusersBackbone:
    return replace(base, drawing_source=str(sibling)).load()


def draw(backbone: DiffusersBackbone) -> np.ndarray:
    return np.stack([np.asarray(image) for image in backbone.sample(backbone.encode("a red robot"), [1, 2])])


def a_lora(backbone: DiffusersBackbone) -> Adaptation:
    generator, factors = torch.Generator().manual_seed(0), {}
    for name in backbone.lora_targets:
        layer = backbone.transformer.get_submodule(name)
        factors[name] = (
            torch.randn(2, layer.in_features, generator=generator) / layer.in_features**0.5,
            torch.randn(layer.out_features, 2, generator=generator),
        )
    return Adaptation(transformer=Adapter.from_factors(factors))


def test_images_are_the_siblings_and_velocities_the_bases(
    base: QwenImageSpec, sibling: Path, both: DiffusersBackbone
) -> None:
    alone, other = base.load(), replace(base, source=str(sibling)).load()
    assert np.array_equal(draw(both), draw(other))
    assert not np.array_equal(draw(both), draw(alone))
    adaptation = a_lora(alone)
    with both.adapted(adaptation), other.adapted(adaptation):
        adapted = draw(both)
        assert np.array_equal(adapted, draw(other))
    assert not np.array_equal(adapted, draw(both))
    latents, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5])
    with torch.no_grad():
        found, expected = (each.velocity(latents, sigma, each.encode("a red robot")) for each in (both, alone))
    assert torch.equal(found, expected)
    assert len({both.digest, alone.digest, other.digest}) == 3


def test_a_changed_sibling_is_noticed(base: QwenImageSpec, sibling: Path) -> None:
    both = replace(base, drawing_source=str(sibling)).load()
    with pytest.raises(RuntimeError, match="base weights"), both.adapted(Adaptation()):
        both.modules()["drawing"].proj_out.weight.data[0, 0] += 1  # type: ignore[union-attr,operator]


def test_all_three_take_turns_on_the_device(base: QwenImageSpec, sibling: Path, both: DiffusersBackbone) -> None:
    turns = replace(base, drawing_source=str(sibling), offload="alternating").load()
    sent: list[tuple[str, object]] = []
    for name, module in turns.modules().items():
        module.to = lambda device, name=name: sent.append((name, device))  # type: ignore[method-assign,assignment]
    turns._on_device = {turns.text_encoder}
    assert np.array_equal(draw(turns), draw(both))
    # The prompt and the negative prompt, then the images.
    assert sent == [("text_encoder", "cpu"), ("drawing", turns.device)]


def test_memory_counts_the_sibling_where_it_is(base: QwenImageSpec, sibling: Path) -> None:
    weights = base.footprint().weight_bytes
    transformer, encoder = weights["transformer"], weights["text_encoder"]
    for offload, more, waiting in (
        ("none", (transformer,) * 3, 0),
        ("text_encoder", (transformer,) * 3, encoder),
        ("alternating", (0, 0, 0), encoder + 2 * transformer - min(encoder, transformer)),
    ):
        plain = replace(base, offload=offload)
        both = replace(plain, drawing_source=str(sibling))
        needs = [vars(spec.memory(4)).values() for spec in (both, plain)]
        assert tuple(one - other for one, other in zip(*needs, strict=True)) == more
        assert both.waiting() == waiting
    assert both.weight_files() == [(base.source, None), (str(sibling), None)]


def test_what_is_no_sibling_is_one_line(base: QwenImageSpec, tmp_path: Path) -> None:
    from knowcusbench.toybox.models.pipeline import build_pipeline

    build_pipeline(tmp_path / "wider", layers=2, heads=4, channels=4)
    for source, said in (
        (str(tmp_path / "wider"), r"backbone\.drawing_source: \S+ of '.*wider' is not as in backbone\.source"),
        (str(tmp_path / "nowhere"), r"backbone\.drawing_source: no directory"),
    ):
        with pytest.raises(WeightsError, match=said) as caught:
            replace(base, drawing_source=source).load()
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="leave one out"):
        replace(base, drawing_source="owner/name", step_lora=StepLora(source="owner/name"))
