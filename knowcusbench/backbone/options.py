"""How the pipeline computes: attention backend, compiled blocks, slices, tiles. All can change an image's last bits."""

from inspect import signature
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

from knowcusbench.backbone.loading import quiet_libraries
from knowcusbench.errors import ConfigError, did_you_mean, first_line

COMPILED_VARIANTS = 64
"""Versions of a block that may be compiled in a process: with and without gradients, by rank of the adapter. Beyond
them torch goes back to uncompiled code without a word, in the middle of a run."""

OVERLAP = 4
"""Neighbouring tiles share this part of their width."""


def check_options(attention: str | None, compiler: str | None) -> None:
    """Raise ConfigError for a backend that diffusers or torch does not know."""
    backends = [backend.value for backend in AttentionBackendName]
    if attention is not None and attention not in backends:
        raise ConfigError(f"backbone.attention: unknown backend {attention!r}{did_you_mean(attention, backends)}")
    if compiler is not None and compiler not in (known := torch._dynamo.list_backends(exclude_tags=())):
        raise ConfigError(f"backbone.compile: unknown backend {compiler!r}{did_you_mean(compiler, known)}")


def apply_options(
    pipeline: Any,
    *,
    attention: str | None,
    compiler: str | None,
    vae_slicing: bool,
    vae_tile: int | None,
) -> None:
    """Set options of a pipeline. Raises ConfigError for an attention backend that is not installed or does not run
    on this machine."""
    if attention is not None:
        try:
            # The block keeps the choice to this transformer; diffusers also makes it that of all models to come.
            with quiet_libraries(), attention_backend("native"):
                pipeline.transformer.set_attention_backend(attention)
        except (RuntimeError, ValueError, ImportError, OSError) as error:
            raise ConfigError(f"backbone.attention: {attention} can't be used ({first_line(error)})") from error
    if compiler is not None:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_VARIANTS)
        # Lengths and batch sizes as symbols from the first call on: an image must not depend on what was drawn before.
        try:
            pipeline.transformer.compile_repeated_blocks(backend=compiler, dynamic=True)
        except ValueError as error:
            name = type(pipeline.transformer).__name__
            raise ConfigError(f"backbone.compile: diffusers can't compile a {name} by blocks; leave it out") from error
    if vae_slicing:
        pipeline.vae.enable_slicing()
    if vae_tile is not None:
        _enable_tiling(pipeline.vae, vae_tile)


def _enable_tiling(vae: Any, tile: int) -> None:
    """Have the VAE work in squares of `tile` pixels."""
    if signature(vae.enable_tiling).parameters.keys() >= {"tile_sample_min_height", "tile_sample_stride_height"}:
        stride = tile - tile // OVERLAP
        vae.enable_tiling(tile, tile, stride, stride)
        return
    # An `AutoencoderKL` and its kin: one size in pixels, the same in latents, and the overlap as a part of it.
    vae.enable_tiling()
    vae.tile_latent_min_size = int(vae.tile_latent_min_size * tile / vae.tile_sample_min_size)
    vae.tile_sample_min_size = tile
    vae.tile_overlap_factor = 1 / OVERLAP
