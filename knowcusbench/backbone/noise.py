"""The initial noise of images: for a seed the same on every device and in every dtype."""

from collections.abc import Sequence

import torch
from torch import Tensor


def initial_noise(seeds: Sequence[int], channels: int, height: int, width: int) -> Tensor:
    """Return standard normal latents (seeds, 1, channels, height, width) in fp32 on the CPU, those of each seed from a
    generator of its own.

    To be rounded to the model's dtype afterwards: drawn in bf16, torch up to 2.11 makes another noise, of 256 levels
    and nothing beyond 3.33 standard deviations (pytorch issue 166853).
    """
    shape = (1, 1, channels, height, width)
    return torch.cat(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) for seed in seeds]
    )
