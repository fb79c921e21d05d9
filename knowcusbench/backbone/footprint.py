"""What a Qwen-Image checkpoint needs, counted on models without storage built from its configuration files."""

from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

from knowcusbench.backbone.base import Footprint
from knowcusbench.backbone.loading import first_line
from knowcusbench.errors import WeightsError

PROMPT_TOKENS = 64
"""Length of the prompt that is counted with; KnowCusBench's prompts are shorter."""

TRAINING_FORWARDS = 3
"""A LoRA step in units of a forward: the forward, its recomputation under gradient checkpointing, and the backward
through the activations (the frozen weights need no gradient)."""


def qwen_image_footprint(
    source: str, revision: str | None, dtype: str, *, height: int, width: int, forwards: int
) -> Footprint:
    """The footprint of one image of `height` x `width` drawn with `forwards` passes of the transformer.

    Raises WeightsError if a configuration file can't be read.
    """
    transformer, text_encoder, vae = _meta_models(source, revision)
    parameters = {
        "transformer": _count(transformer),
        "text_encoder": _count(text_encoder),
        "vae": _count(vae),
    }
    forward_flops = transformer_flops(transformer, vae, height=height, width=width)
    itemsize = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    return Footprint(
        parameters=parameters,
        weight_bytes=sum(parameters.values()) * itemsize,
        image_flops=forwards * forward_flops + decode_flops(vae, height=height, width=width),
        training_step_flops=TRAINING_FORWARDS * forward_flops,
        prompt_embeds_bytes=PROMPT_TOKENS * transformer.config.joint_attention_dim * itemsize,
        image_size=(height, width),
    )


def _meta_models(source: str, revision: str | None) -> tuple[Any, nn.Module, Any]:
    try:
        transformer_config = QwenImageTransformer2DModel.load_config(source, subfolder="transformer", revision=revision)
        vae_config = AutoencoderKLQwenImage.load_config(source, subfolder="vae", revision=revision)
        text_config = AutoConfig.from_pretrained(source, subfolder="text_encoder", revision=revision)
    except (OSError, ValueError) as error:
        message = f"backbone.source: can't read the configuration of {source!r} ({first_line(error)})"
        raise WeightsError(message) from error
    with init_empty_weights():
        text_encoder = Qwen2_5_VLForConditionalGeneration(text_config)
    # Shared input and output embeddings count once.
    text_encoder.tie_weights()
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel.from_config(transformer_config)
        vae = AutoencoderKLQwenImage.from_config(vae_config)
    return transformer, text_encoder, vae


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def transformer_flops(transformer: Any, vae: Any, *, height: int, width: int) -> float:
    """Floating-point operations of one forward at batch 1."""
    stride = 2 ** (len(vae.config.temperal_downsample) + 1)
    rows, columns = height // stride, width // stride
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        transformer(
            hidden_states=torch.empty(1, rows * columns, transformer.config.in_channels, device="meta"),
            timestep=torch.empty(1, device="meta"),
            encoder_hidden_states=torch.empty(1, PROMPT_TOKENS, transformer.config.joint_attention_dim, device="meta"),
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
