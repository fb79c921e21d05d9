"""What a checkpoint needs, counted on models without storage made from its configuration files."""

from functools import lru_cache
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from knowcusbench.backbone.checkpoint import Checkpoint
from knowcusbench.backbone.counts import Counts
from knowcusbench.backbone.loading import named_class
from knowcusbench.backbone.memory import PeakBytes, fused_attention
from knowcusbench.backbone.targets import lora_targets


@lru_cache
def count_checkpoint(checkpoint: Checkpoint, *, height: int, width: int) -> Counts:
    """Count a checkpoint for images of `height` x `width`."""
    transformer, text_encoder, vae = meta_models(checkpoint)
    return Counts(
        parameters=count_parameters(transformer, text_encoder, vae),
        forward_flops=transformer_flops(checkpoint, transformer, height=height, width=width),
        decode_flops=decode_flops(checkpoint, vae, height=height, width=width),
    )


def meta_models(checkpoint: Checkpoint) -> tuple[Any, nn.Module, Any]:
    """Make the transformer, the text encoder and the VAE without storage."""
    with torch.device("meta"):
        text_encoder = named_class(checkpoint, "text_encoder")(text_encoder_config(checkpoint))
    # Shared input and output embeddings count once.
    text_encoder.tie_weights()
    return meta_model(checkpoint, "transformer"), text_encoder, meta_model(checkpoint, "vae")


def meta_model(checkpoint: Checkpoint, component: str, dtype: torch.dtype = torch.float32) -> Any:
    """Make the transformer or the VAE without storage, in `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            return named_class(checkpoint, component).from_config(getattr(checkpoint, component))
    finally:
        torch.set_default_dtype(before)


def text_encoder_config(checkpoint: Checkpoint) -> Any:
    """Return the text encoder's configuration as transformers takes it."""
    return named_class(checkpoint, "text_encoder").config_class.from_dict(dict(checkpoint.text_encoder))


def count_parameters(transformer: nn.Module, text_encoder: nn.Module, vae: nn.Module) -> dict[str, int]:
    """Count parameters by component."""
    models = {"transformer": transformer, "text_encoder": text_encoder, "vae": vae}
    return {name: sum(parameter.numel() for parameter in model.parameters()) for name, model in models.items()}


def transformer_flops(
    checkpoint: Checkpoint, transformer: Any, *, height: int, width: int, tokens: int | None = None
) -> float:
    """Count floating-point operations of one forward of the transformer at batch 1, for a prompt of `tokens`, by
    default of `counted_tokens`."""
    pixels = checkpoint.pixels_per_token
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        checkpoint.family.forward(
            transformer, 1, tokens or checkpoint.family.counted_tokens, height // pixels, width // pixels
        )
    return float(counter.get_total_flops())


def decode_flops(checkpoint: Checkpoint, vae: Any, *, height: int, width: int) -> float:
    """Count floating-point operations of decoding one image."""
    latents = checkpoint.family.empty_decoder_input(vae, 1, height, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.decode(latents)
    return float(counter.get_total_flops())


@lru_cache
def drawing_bytes(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    height: int,
    width: int,
    batch: int,
    images: int,
    decoded: int,
    vae_tile: int | None,
) -> int:
    """Return the bytes of a forward for a batch of `batch`, or of decoding `decoded` of its `images` at once, whichever
    needs more. With `vae_tile` the VAE decodes squares of this size."""
    transformer, vae = (meta_model(checkpoint, component, dtype) for component in ("transformer", "vae"))
    with torch.no_grad(), fused_attention(), PeakBytes() as forward:
        _velocity(checkpoint, transformer, height, width, batch)
    rows, columns = (min(size, vae_tile or size) for size in (height, width))
    latents = checkpoint.family.empty_decoder_input(vae, decoded, rows, columns)
    with torch.no_grad(), fused_attention(), PeakBytes() as decoding:
        vae.decode(latents)
    # The images that wait, the tiles, and the image that they are put together to.
    is_tiled = vae_tile is not None and vae_tile < max(height, width)
    pixels = (images - decoded + (2 * decoded if is_tiled else 0)) * 3 * height * width * dtype.itemsize
    return int(max(forward.peak, decoding.peak + pixels))


@lru_cache
def training_bytes(
    checkpoint: Checkpoint, *, dtype: torch.dtype, height: int, width: int, rank: int, checkpointing: bool
) -> int:
    """Return the bytes of a LoRA training step at batch 1: forward, backward, fp32 adapters, their gradients and
    AdamW's two moments."""
    transformer = meta_model(checkpoint, "transformer", dtype)
    transformer.requires_grad_(False)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    targets = list(lora_targets(checkpoint.family, transformer))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
    inject_adapter_in_model(config, transformer, low_cpu_mem_usage=True)
    adapters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for parameter in adapters:
        parameter.data = parameter.data.float()
    with fused_attention(), PeakBytes() as step:
        loss = _velocity(checkpoint, transformer, height, width, 1).float().square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
    return int(step.peak + 3 * sum(parameter.nbytes for parameter in adapters))


def _velocity(checkpoint: Checkpoint, transformer: Any, height: int, width: int, batch: int) -> Tensor:
    pixels, family = checkpoint.pixels_per_token, checkpoint.family
    return family.forward(transformer, batch, family.counted_tokens, height // pixels, width // pixels)
