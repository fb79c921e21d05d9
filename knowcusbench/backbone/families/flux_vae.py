"""Latents of FLUX.1's VAE, an `AutoencoderKL` with a scale and a shift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from knowcusbench.backbone.base import LatentDistribution
from knowcusbench.backbone.family import Family

if TYPE_CHECKING:
    from torch import Tensor


class FluxVae(Family):
    """A family whose latents are `(z - shift) * scale` of the VAE's z, cut into patches inside the transformer."""

    def decoder_input(self, pipeline: Any, latents: Tensor, height: int, width: int) -> Tensor:
        vae = pipeline.vae
        scaled: Tensor = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
        return scaled

    def posterior(self, vae: Any, pixels: Tensor) -> LatentDistribution:
        latents, scale = vae.encode(pixels).latent_dist, vae.config.scaling_factor
        return LatentDistribution((latents.mean.float() - vae.config.shift_factor) * scale, latents.std.float() * scale)


def static_shift(scheduler: Any) -> float:
    """Return the time shift that a scheduler has whatever the image's size; 1 where it depends on that."""
    return 1.0 if scheduler.config.use_dynamic_shifting else float(scheduler.config.shift)
