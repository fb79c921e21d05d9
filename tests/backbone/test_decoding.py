"""From latents to pictures: whatever happens in the VAE."""

import numpy as np
import pytest
import torch
from conftest import miniature_spec
from diffusers import QwenImagePipeline

from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.decoding import decoded
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.errors import PictureError, WeightsError

QWEN = QwenImageSpec.family


@pytest.fixture
def latents(pipeline: QwenImagePipeline) -> torch.Tensor:
    """Packed ones of three images of 64 x 64."""
    tokens, channels = (64 // pipeline.vae_scale_factor // 2) ** 2, 4 * pipeline.vae.config.z_dim
    return torch.randn(3, tokens, channels, generator=torch.Generator().manual_seed(0)).bfloat16()


def pixels(pictures: list) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pictures_with_latents_that_are_not_finite_are_none(
    pipeline: QwenImagePipeline, latents: torch.Tensor, value: float
) -> None:
    before = decoded(QWEN, pipeline, latents, 64, 64)
    latents[1, 3, 2] = value
    first, broken, last = decoded(QWEN, pipeline, latents, 64, 64)
    assert broken is None
    assert np.array_equal(pixels([first, last]), pixels([before[0], before[2]]))


def test_pictures_that_the_vae_makes_nan_are_none(
    pipeline: QwenImagePipeline, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = pipeline.vae.decode

    def broken(given: torch.Tensor, **options: bool) -> tuple[torch.Tensor]:
        (made,) = decode(given, **options)
        made[0, 0, 0, 5, 5] = float("nan")
        return (made,)

    monkeypatch.setattr(pipeline.vae, "decode", broken)
    assert [picture is None for picture in decoded(QWEN, pipeline, latents, 64, 64)] == [True, False, False]


def test_where_the_vae_has_no_room_pictures_are_decoded_one_by_one(
    pipeline: QwenImagePipeline, latents: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = pipeline.vae.decode
    tried: list[int] = []

    def short(given: torch.Tensor, **options: bool) -> tuple[torch.Tensor]:
        tried.append(len(given))
        if len(given) > 1:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return decode(given, **options)  # type: ignore[no-any-return]

    pipeline.vae.enable_slicing()
    expected = pixels(decoded(QWEN, pipeline, latents, 64, 64))
    pipeline.vae.disable_slicing()
    monkeypatch.setattr(pipeline.vae, "decode", short)
    assert np.array_equal(pixels(decoded(QWEN, pipeline, latents, 64, 64)), expected)
    assert tried == [3, 1, 1, 1]


def test_a_sample_that_is_not_finite_is_no_picture(
    backbone: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = backbone.transformer.forward

    def broken(*args: object, **kwargs: torch.Tensor) -> tuple[torch.Tensor]:
        (velocity,) = forward(*args, **kwargs)
        return (torch.cat([velocity[:1], velocity[1:] * float("nan")]),)

    monkeypatch.setattr(backbone.transformer, "forward", broken)
    with pytest.raises(PictureError, match=r"pixels are not finite \(noise seed 8, 9\)"):
        backbone.sample(backbone.encode("a robot"), [7, 8, 9])


def test_base_weights_with_nan_are_refused_with_the_tensors_name(miniature) -> None:
    spec = miniature_spec(miniature)
    loaded = spec.load()._pipeline
    with torch.no_grad():
        loaded.vae.decoder.conv_in.weight.view(-1)[7] = float("nan")
    with pytest.raises(WeightsError, match=r"decoder\.conv_in\.weight of the vae of .* has NaN"):
        DiffusersBackbone(spec, loaded, torch.device("cpu"))


def test_slices_are_the_default_and_make_a_picture_independent_of_its_company(miniature) -> None:
    spec = miniature_spec(miniature)
    backbone = spec.load()
    assert spec.vae_slicing
    assert backbone._pipeline.vae.use_slicing
    assert backbone.sampling["vae_slicing"] is True
    assert not miniature_spec(miniature, vae_slicing=False).load()._pipeline.vae.use_slicing
