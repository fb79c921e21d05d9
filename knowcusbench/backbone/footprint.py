"""What a Qwen-Image checkpoint needs, counted on models without storage made from its configuration files."""

from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from knowcusbench.backbone.checkpoint import Checkpoint
from knowcusbench.backbone.counts import PROMPT_TOKENS, Counts


@lru_cache
def count_checkpoint(checkpoint: Checkpoint, *, height: int, width: int) -> Counts:
    """Count a checkpoint for images of `height` x `width`."""
    transformer, text_encoder, vae = meta_models(checkpoint)
    return Counts(
        parameters=count_parameters(transformer, text_encoder, vae),
        forward_flops=checkpoint_flops(checkpoint, vae, height=height, width=width),
        decode_flops=decode_flops(vae, height=height, width=width),
    )


def meta_models(checkpoint: Checkpoint) -> tuple[Any, nn.Module, Any]:
    """The transformer, the text encoder and the VAE without storage."""
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel.from_config(checkpoint.transformer)
        text_encoder = Qwen2_5_VLForConditionalGeneration(text_encoder_config(checkpoint))
    # Shared input and output embeddings count once.
    text_encoder.tie_weights()
    return transformer, text_encoder, meta_vae(checkpoint)


def text_encoder_config(checkpoint: Checkpoint) -> Qwen2_5_VLConfig:
    """The text encoder's configuration as transformers takes it."""
    return Qwen2_5_VLConfig.from_dict(dict(checkpoint.text_encoder))


def meta_vae(checkpoint: Checkpoint) -> Any:
    """The VAE without storage."""
    with torch.device("meta"):
        return AutoencoderKLQwenImage.from_config(checkpoint.vae)


def count_parameters(transformer: nn.Module, text_encoder: nn.Module, vae: nn.Module) -> dict[str, int]:
    """Parameters by component."""
    models = {"transformer": transformer, "text_encoder": text_encoder, "vae": vae}
    return {name: sum(parameter.numel() for parameter in model.parameters()) for name, model in models.items()}


def checkpoint_flops(
    checkpoint: Checkpoint, vae: Any, *, height: int, width: int, tokens: int = PROMPT_TOKENS
) -> float:
    """Floating-point operations of one forward of the transformer at batch 1, for a prompt of `tokens`. Every block
    adds the same: two are counted."""
    one, two = (
        transformer_flops(few_blocks(checkpoint, blocks), vae, height=height, width=width, tokens=tokens)
        for blocks in (1, 2)
    )
    return one + (two - one) * (int(checkpoint.transformer["num_layers"]) - 1)


def few_blocks(checkpoint: Checkpoint, blocks: int) -> Any:
    """The transformer without storage, with so many blocks."""
    with torch.device("meta"):
        return QwenImageTransformer2DModel.from_config({**checkpoint.transformer, "num_layers": blocks})


def transformer_flops(transformer: Any, vae: Any, *, height: int, width: int, tokens: int = PROMPT_TOKENS) -> float:
    """Floating-point operations of one forward at batch 1, for a prompt of `tokens`."""
    stride = 2 ** (len(vae.config.temperal_downsample) + 1)
    rows, columns = height // stride, width // stride
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        transformer(
            hidden_states=torch.empty(1, rows * columns, transformer.config.in_channels, device="meta"),
            timestep=torch.empty(1, device="meta"),
            encoder_hidden_states=torch.empty(1, tokens, transformer.config.joint_attention_dim, device="meta"),
            img_shapes=[[(1, rows, columns)]],
        )
    return float(counter.get_total_flops())


def decode_flops(vae: Any, *, height: int, width: int) -> float:
    """Floating-point operations of decoding one image."""
    stride = 2 ** len(vae.config.temperal_downsample)
    latents = torch.empty(1, vae.config.z_dim, 1, height // stride, width // stride, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.decode(latents)
    return float(counter.get_total_flops())
