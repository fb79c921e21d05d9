"""The rectified-flow training objective of diffusers' DreamBooth trainers."""

import torch
from torch import Tensor

TIMESTEPS = 1000
"""The trainer's discretisation of the flow."""


def draw_sigmas(count: int, generator: torch.Generator, shift: float = 1.0) -> Tensor:
    """Draw noise levels (count,): one of 1/1000, 2/1000, ..., 1 with equal probability, each level s moved to
    `shift s / (1 + (shift - 1) s)`.

    The trainer draws u ~ U(0, 1) and takes entry floor(1000 u) of the scheduler's timesteps 1000, 999, ..., 1, which a
    scheduler with a static shift has moved.
    """
    uniform = torch.rand(count, generator=generator)
    levels = (TIMESTEPS - (uniform * TIMESTEPS).floor()) / TIMESTEPS
    return levels if shift == 1 else shift * levels / (1 + (shift - 1) * levels)


def noisy_latents(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The point `(1 - sigma) * latents + sigma * noise` on the straight path; `sigma` is (batch,)."""
    level = sigma.view(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise


def flow_matching_loss(velocity: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error between the predicted velocity and `noise - latents`, in fp32 (a scalar)."""
    return torch.nn.functional.mse_loss(velocity.float(), (noise - latents).float())
