"""DINO and DINOv2 against the same weights in timm, with pixels from Pillow and numpy."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders.vit_twin import VitTwin, prepared
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from knowcusbench.encoders.dino import DinoSpec
from knowcusbench.errors import ConfigError, MetricError, WeightsError
from knowcusbench.metrics.base import ScoreItem
from knowcusbench.metrics.dino_i import DinoI, DinoV2I


@pytest.fixture(params=["dino", "dinov2"])
def spec(request: pytest.FixtureRequest) -> DinoSpec:
    found: DinoSpec = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def copy(spec: DinoSpec, tmp_path: Path) -> Path:
    """A copy of the checkpoint's directory, to be changed."""
    shutil.copytree(spec.source, tmp_path / "copy")
    return tmp_path / "copy"


def opened(paths: list[Path]) -> list[Image.Image]:
    return [Image.open(path) for path in paths]


def test_pixels_are_those_of_pillow(dino: DinoSpec, dogs: list[Path]) -> None:
    encoder = dino.load()
    for box in ((0, 0, 256, 256), (10, 0, 250, 155), (0, 7, 113, 256), (0, 0, 100, 61)):
        image = Image.open(dogs[0]).crop(box)
        np.testing.assert_allclose(encoder.preprocess(image).numpy(), prepared(image), atol=1e-6)


def test_embeddings_are_class_tokens_of_timm(spec: DinoSpec, dogs: list[Path], ducks: list[Path]) -> None:
    images = opened([*dogs, *ducks])

    embeddings = spec.load().encode_images(images).numpy()

    np.testing.assert_allclose(embeddings, VitTwin(Path(spec.source)).images(images), atol=1e-5)
    assert embeddings.std(axis=0).max() > 1e-2  # the photographs are told apart


@pytest.mark.parametrize("metric", [DinoI, DinoV2I])
def test_a_score_is_the_mean_over_all_references(
    metric: type[DinoI], spec: DinoSpec, dogs: list[Path], ducks: list[Path]
) -> None:
    items = [ScoreItem(str(n), image, tuple(dogs[:4]), "", "dog") for n, image in enumerate(ducks)]

    scores = metric(encoder=spec).score(items)

    twin = VitTwin(Path(spec.source))
    generated, references = twin.images(opened(ducks)), twin.images(opened(dogs[:4]))
    np.testing.assert_allclose([score.value for score in scores], (generated @ references.T).mean(axis=1), atol=1e-5)


def test_the_published_shapes_are_small_vision_transformers() -> None:
    """21.67 and 22.06 million parameters, as timm lists vit_small_patch16_224.dino and vit_small_patch14_dinov2."""
    with torch.device("meta"):
        dino = ViTModel(
            ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536), add_pooling_layer=False
        )
        dinov2 = Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14))
    assert sum(parameter.numel() for parameter in dino.parameters()) == 21_665_664
    assert sum(parameter.numel() for parameter in dinov2.parameters()) == 22_056_576


def test_a_checkpoint_may_be_a_pickle_of_tensors(spec: DinoSpec, copy: Path, dogs: list[Path]) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    again = replace(spec, source=str(copy)).load()
    assert torch.equal(again.encode_images(opened(dogs)), spec.load().encode_images(opened(dogs)))


def test_a_pickle_that_runs_code_is_refused(spec: DinoSpec, copy: Path, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    (copy / "model.safetensors").unlink()
    for write in (
        lambda path: torch.save({"w": Malicious()}, path),
        lambda path: path.write_bytes(pickle.dumps(Malicious())),
    ):
        write(copy / "pytorch_model.bin")
        with pytest.raises(WeightsError, match=str(copy)):
            replace(spec, source=str(copy)).load()
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_missing_are_named(spec: DinoSpec, copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["layernorm.bias"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 weights of its model, the first is layernorm\.bias"):
        replace(spec, source=str(copy)).load()


def test_a_checkpoint_of_another_model_is_named(dino: DinoSpec, encoders: Path) -> None:
    with pytest.raises(WeightsError, match=r"pickscore: holds a model of type clip, expected vit or dinov2"):
        replace(dino, source=str(encoders / "pickscore")).load()


def test_an_input_size_that_does_not_fit_is_refused(dino: DinoSpec, dinov2: DinoSpec) -> None:
    with pytest.raises(ConfigError, match="crop: expected 1 to 256 pixels"):
        replace(dino, crop=300)
    with pytest.raises(ConfigError, match=r"crop: .* 224 pixels in patches of 16, found 208"):
        replace(dino, crop=208).load()
    with pytest.raises(ConfigError, match=r"crop: .* 518 pixels in patches of 14, found 225"):
        replace(dinov2, crop=225).load()


def test_dinov2_takes_other_multiples_of_its_patches(dinov2: DinoSpec, dogs: list[Path]) -> None:
    larger = replace(dinov2, resize=300, crop=280).load()
    assert larger.encode_images(opened(dogs[:1])).shape == (1, 48)


@pytest.mark.parametrize("value", [0.0, float("inf")])
def test_an_embedding_without_a_direction_names_the_sample(
    value: float, spec: DinoSpec, copy: Path, dogs: list[Path]
) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["layernorm.weight"].fill_(value)
    weights["layernorm.bias"].zero_()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MetricError, match=r"DINO-I of sample s7 .*is nan"):
        DinoI(encoder=replace(spec, source=str(copy))).score([ScoreItem("s7", dogs[0], (dogs[1],), "", "dog")])
