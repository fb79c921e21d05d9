import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from knowcusbench.adaptation.flow_matching import draw_sigmas, flow_matching_loss, noisy_latents


def test_the_loss_is_the_mean_squared_distance_to_noise_minus_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    velocity, latents, noise = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3))

    loss = flow_matching_loss(velocity, latents, noise)

    v, x, n = (tensor.numpy().astype(np.float64) for tensor in (velocity, latents, noise))
    assert np.isclose(loss.item(), np.mean((v - (n - x)) ** 2), rtol=1e-6)


def test_the_loss_of_a_bf16_model_is_computed_in_fp32() -> None:
    latents, noise = torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 2), 1.001)
    velocity = torch.ones(1, 1, 1, 2, dtype=torch.bfloat16)

    loss = flow_matching_loss(velocity, latents, noise)

    # In bf16 the target would round to 1 and the loss to 0.
    assert loss.dtype == torch.float32
    assert np.isclose(loss.item(), 1e-6, rtol=1e-2)


def test_noisy_latents_lie_on_the_straight_path_at_each_images_own_level() -> None:
    latents, noise = torch.full((2, 1, 2, 2), 4.0), torch.full((2, 1, 2, 2), 8.0)

    noisy = noisy_latents(latents, noise, torch.tensor([0.25, 1.0]))

    assert noisy[0].eq(5.0).all()
    assert noisy[1].eq(8.0).all()


def test_noise_levels_are_those_of_diffusers_trainer() -> None:
    """The trainer draws u, indexes the scheduler's timesteps with it, and looks the sigma up."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    uniform = torch.rand(5000, generator=torch.Generator().manual_seed(7))
    indices = (uniform * scheduler.config.num_train_timesteps).long()
    expected = scheduler.sigmas[indices]

    drawn = draw_sigmas(5000, torch.Generator().manual_seed(7))

    assert torch.allclose(drawn, expected, atol=1e-7)
    assert drawn.min() >= 0.001
    assert drawn.max() <= 1.0
    assert len(drawn.unique()) > 900


@pytest.mark.parametrize("shift", [3.0, 6.0])
def test_levels_of_a_static_shift_are_those_of_the_schedulers_grid(shift: float) -> None:
    """Z-Image's trainer looks the shifted sigma up; one that counts time from the image takes its distance from 1."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    uniform = torch.rand(5000, generator=torch.Generator().manual_seed(7))
    looked_up = scheduler.sigmas[(uniform * scheduler.config.num_train_timesteps).long()]

    drawn = draw_sigmas(5000, torch.Generator().manual_seed(7), shift)
    leaning_back = draw_sigmas(50000, torch.Generator().manual_seed(7), 1 / shift)

    assert torch.allclose(drawn, looked_up, atol=1e-6)
    assert drawn.mean() > 0.65
    quantiles = torch.linspace(0.05, 0.95, 19)
    assert torch.allclose(leaning_back.quantile(quantiles), (1 - scheduler.sigmas).quantile(quantiles), atol=0.02)
