"""The rectified-flow training objective of diffusers' DreamBooth trainers."""

import torch
from torch import Tensor

TIMESTEPS = 1000
"""Number of discrete timesteps in the trainer's flow."""


def draw_sigmas(count: int, generator: torch.Generator, shift: float = 1.0) -> Tensor:
    """Draw noise levels (count,): one of 1/1000, 2/1000, ..., 1 with equal probability.

    Each level s is moved to `shift s / (1 + (shift - 1) s)`. The trainer draws u ~ U(0, 1) and takes entry
    floor(1000 u) of the scheduler's timesteps 1000, 999, ..., 1, which a scheduler with a static shift has moved.
    """
    uniform = torch.rand(count, generator=generator)
    levels = (TIMESTEPS - (uniform * TIMESTEPS).floor()) / TIMESTEPS
    return levels if shift == 1 else shift * levels / (1 + (shift - 1) * levels)


def noisy_latents(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return the point `(1 - sigma) * latents + sigma * noise` on the straight path; `sigma` is (batch,).

    >>> noisy_latents(torch.tensor([[0.0, 8.0]]), torch.tensor([[4.0, 4.0]]), torch.tensor([0.25]))
    tensor([[1., 7.]])
    """
    level = sigma.view(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise


def flow_matching_loss(velocity: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
    """Return the mean squared error between the predicted velocity and `noise - latents`, in fp32 (a scalar).

    >>> flow_matching_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 4.0]]))
    tensor(2.)
    """
    return torch.nn.functional.mse_loss(velocity.float(), (noise - latents).float())
