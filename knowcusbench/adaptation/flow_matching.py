"""The rectified-flow training objective of diffusers' DreamBooth trainers."""

import torch
from torch import Tensor

TIMESTEPS = 1000
"""The trainer's discretisation of the flow."""


def draw_sigmas(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels (count,): one of 1/1000, 2/1000, ..., 1 with equal probability.

    The trainer draws u ~ U(0, 1) and takes entry floor(1000 u) of the scheduler's timesteps 1000, 999, ..., 1.
    """
    uniform = torch.rand(count, generator=generator)
    return (TIMESTEPS - (uniform * TIMESTEPS).floor()) / TIMESTEPS


def noisy_latents(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The point `(1 - sigma) * latents + sigma * noise` on the straight path; `sigma` is (batch,)."""
    level = sigma.view(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise


def flow_matching_loss(velocity: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error between the predicted velocity and `noise - latents`, in fp32 (a scalar)."""
    return torch.nn.functional.mse_loss(velocity.float(), (noise - latents).float())
