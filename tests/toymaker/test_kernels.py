"""The faster forms of layers in training equal the ordinary ones."""

import math
import random

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from knowcusbench.toybox.models.pipeline import build_transformer, build_vae
from knowcusbench.toybox.world.render import mask
from knowcusbench.toybox.world.world import draw_scene
from knowcusbench.toymaker import denoiser
from knowcusbench.toymaker.autoencoder import narrow, pixel_weights, single_frames


def test_single_frames_are_the_same_without_time() -> None:
    torch.manual_seed(0)
    vae = build_vae().eval()
    pictures = torch.rand(2, 3, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = vae(pictures).sample
        with single_frames():
            assert torch.allclose(vae(pictures).sample, expected, atol=1e-5)
        assert torch.equal(vae(pictures).sample, expected)


def test_a_narrow_posterior_has_the_same_mean() -> None:
    torch.manual_seed(0)
    vae = build_vae().eval()
    pictures = torch.rand(2, 3, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist
        narrow(vae)
        after = vae.encode(pictures).latent_dist
    assert torch.equal(after.mean, before.mean)
    assert torch.allclose(after.std, torch.tensor(-5.0).exp())


def test_attention_written_out_is_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 7, 8, generator=generator) for _ in range(3))
    mask = torch.arange(7)[None, :] < torch.tensor([5, 7])[:, None]
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
    with denoiser.explicit_attention(torch.device("cpu")):
        written = torch.nn.functional.scaled_dot_product_attention(
            query=query, key=key, value=value, attn_mask=mask[:, None, None]
        )
    assert torch.nn.functional.scaled_dot_product_attention is scaled_dot_product_attention
    assert torch.allclose(written, expected, atol=1e-6)


def test_quick_forms_are_the_ordinary_ones() -> None:
    torch.manual_seed(0)
    transformer = build_transformer(layers=1).eval()
    inputs = {
        "hidden_states": torch.randn(2, 64, 48),
        "timestep": torch.tensor([0.3, 0.8]),
        "encoder_hidden_states": torch.randn(2, 5, 192),
        "encoder_hidden_states_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "img_shapes": [[(1, 8, 8)]] * 2,
    }
    with torch.no_grad():
        expected = transformer(**inputs).sample
        with denoiser.quick_forms():
            assert torch.allclose(transformer(**inputs).sample, expected, atol=1e-5)
        assert torch.equal(transformer(**inputs).sample, expected)
        turned = inputs | {"img_shapes": [[(1, 4, 16)]] * 2}
        assert not torch.allclose(transformer(**turned).sample, expected, atol=1e-3)


def test_each_thing_has_the_same_weight_in_the_autoencoders_pixels_however_small() -> None:
    rng = random.Random(0)
    scenes = [draw_scene(rng) for _ in range(60)]
    for scene in scenes:
        weights = pixel_weights(scene)
        assert weights.min() == 1
        shown = torch.from_numpy(mask(scene))
        assert (weights - 1)[shown].sum() == pytest.approx(0.5 * 64 * 64, rel=1e-4)
        assert (weights - 1).sum() == pytest.approx((2 if scene.second else 1) * 0.5 * 64 * 64, rel=1e-4)
    assert {scene.second is not None for scene in scenes} == {True, False}


def test_most_noise_levels_are_high_and_all_occur() -> None:
    levels = denoiser._noise_levels(20_000, torch.Generator().manual_seed(0))
    assert 0 < levels.min() < 0.01
    assert 0.99 < levels.max() < 1
    # Half of the logit-normal part is above 1 / (1 + exp(-1.4)); of the uniform part, the share between there and 1.
    middle = 1 / (1 + math.exp(-1.4))
    assert (levels > middle).float().mean() == pytest.approx(0.65 / 2 + 0.35 * (1 - middle), abs=0.01)
