"""The initial noise is a function of the seed alone, known without torch."""

import numpy as np
import pytest
import torch
from conftest import miniature_spec
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray

from knowcusbench.backbone.noise import initial_noise

SEED = 0x1234_5678_9ABC_DEF0

CONSTANTS = [0.450171, 0.044561, 0.519648, 0.235230, 1.188817, -1.452019, -0.683890, -1.463865]
"""The first latents of `SEED`, as torch 2.8 to 2.14 draw them in fp32."""


def box_muller(seed: int, count: int) -> NDArray[np.float64]:
    """What torch's stream for the CPU is said to be: a Mersenne twister of the seed's low 32 bits, 24 bits a uniform
    number, the cosines of eight pairs and then their sines."""
    twister = np.random.RandomState(seed & 0xFFFF_FFFF)
    uniform = (twister.randint(0, 1 << 32, size=count, dtype=np.uint64) & 0xFF_FFFF).reshape(-1, 2, 8) / (1 << 24)
    radius, angle = np.sqrt(-2 * np.log(1 - uniform[:, 0])), 2 * np.pi * uniform[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).flatten()


def test_the_noise_is_this_one_and_no_other() -> None:
    """A change of torch's stream shows here: then the noise must be drawn otherwise, not the constants changed."""
    noise = initial_noise([SEED], 16, 8, 8)
    assert (noise.shape, noise.dtype) == ((1, 1, 16, 8, 8), torch.float32)
    assert noise.flatten()[:8].tolist() == pytest.approx(CONSTANTS, abs=1e-5)
    assert noise.flatten().numpy() == pytest.approx(box_muller(SEED, noise.numel()), abs=1e-5)


def test_every_seed_has_noise_of_its_own_whatever_its_company() -> None:
    both = initial_noise([1, 2], 16, 4, 6)
    assert torch.equal(both, torch.cat([initial_noise([seed], 16, 4, 6) for seed in (1, 2)]))
    assert not torch.equal(both[0], both[1])


def test_it_is_drawn_in_fp32_whatever_the_default_dtype() -> None:
    """Drawn in bf16 it would be another noise under torch up to 2.11."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        drawn = initial_noise([3], 16, 4, 4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(drawn, initial_noise([3], 16, 4, 4))
    assert len(drawn.unique()) == drawn.numel()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_pipeline_begins_with_the_noise_rounded_to_its_dtype(miniature, monkeypatch, dtype) -> None:
    backbone = miniature_spec(miniature, dtype=dtype, height=48, width=80, true_cfg_scale=1.0).load()
    began = []
    forward = backbone.transformer.forward

    def watched(*args, hidden_states, **kwargs):
        began.append(hidden_states.clone())
        return forward(*args, hidden_states=hidden_states, **kwargs)

    monkeypatch.setattr(backbone.transformer, "forward", watched)
    backbone.sample(backbone.encode("a robot"), [5, SEED])
    pipeline = backbone._pipeline
    stride = pipeline.vae_scale_factor
    expected = initial_noise([5, SEED], pipeline.vae.config.z_dim, 48 // stride, 80 // stride)
    found = pipeline._unpack_latents(began[0], 48, 80, stride).permute(0, 2, 1, 3, 4)
    assert torch.equal(found, expected.to(getattr(torch, dtype)))


def test_in_fp32_it_is_what_diffusers_draws() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (1, SEED)]
    theirs = randn_tensor((2, 1, 16, 8, 8), generator=generators, device=torch.device("cpu"), dtype=torch.float32)
    assert torch.equal(initial_noise([1, SEED], 16, 8, 8), theirs)
