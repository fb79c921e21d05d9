"""What a Qwen-Image checkpoint needs, counted on models without storage made from its configuration files."""

from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLForConditionalGeneration

from knowcusbench.backbone.base import Footprint
from knowcusbench.backbone.loading import Checkpoint

PROMPT_TOKENS = 64
"""Length of the prompt that is counted with; KnowCusBench's prompts are shorter."""

TRAINING_FORWARDS = 3
"""A LoRA step in units of a forward: the forward, its recomputation under gradient checkpointing, and the
backward through the activations (the frozen weights need no gradient). Counted at full width: 3.13."""


def checkpoint_footprint(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    height: int,
    width: int,
    forwards: int,
    transformer_bytes_per_parameter: float | None = None,
) -> Footprint:
    """The footprint of one image of `height` x `width` drawn with `forwards` passes of the transformer, whose weights
    take the bytes of `dtype` unless it is told otherwise."""
    transformer, text_encoder, vae = _meta_models(checkpoint)
    parameters = {
        "transformer": _count(transformer),
        "text_encoder": _count(text_encoder),
        "vae": _count(vae),
    }
    bytes_per_parameter = dict.fromkeys(parameters, float(dtype.itemsize))
    if transformer_bytes_per_parameter:
        bytes_per_parameter["transformer"] = transformer_bytes_per_parameter
    weight_bytes = {name: round(count * bytes_per_parameter[name]) for name, count in parameters.items()}
    forward_flops = transformer_flops(transformer, vae, height=height, width=width)
    return Footprint(
        parameters=parameters,
        weight_bytes=weight_bytes,
        image_flops=forwards * forward_flops + decode_flops(vae, height=height, width=width),
        training_step_flops=TRAINING_FORWARDS * forward_flops,
        prompt_embeds_bytes=PROMPT_TOKENS * transformer.config.joint_attention_dim * dtype.itemsize,
        image_size=(height, width),
    )


def _meta_models(checkpoint: Checkpoint) -> tuple[Any, nn.Module, Any]:
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel.from_config(checkpoint.transformer)
        vae = AutoencoderKLQwenImage.from_config(checkpoint.vae)
        text_encoder = Qwen2_5_VLForConditionalGeneration(checkpoint.text_encoder)
    # Shared input and output embeddings count once.
    text_encoder.tie_weights()
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
