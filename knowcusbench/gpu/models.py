"""Models with random weights, of the published shapes or of small ones, created on their device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
import transformers
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import nn
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.checkpoint import Checkpoint, open_checkpoint
from knowcusbench.backbone.counting import text_encoder_config
from knowcusbench.backbone.loading import quiet_libraries
from knowcusbench.backbone.published import published_checkpoint
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.toybox.shipped import WEIGHTS

STD = 0.02
"""Standard deviation of the random weights.

With torch's own initialisation activations overflow, and a GPU multiplies NaN faster.
"""


@dataclass(frozen=True)
class Size:
    """Shapes and settings of the timed models.

    Attributes:
        checkpoint: shapes of the backbone.
        image: height and width in pixels.
        steps: denoising steps.
        layers: decoder layers to edit.
        training_steps: number of timed LoRA steps.
        encoders: the metric encoders: batch size and model.
    """

    checkpoint: Checkpoint
    image: int
    steps: int
    layers: tuple[int, ...]
    training_steps: int
    encoders: dict[str, tuple[int, Callable[[], nn.Module]]]


def full_size() -> Size:
    """Return Qwen-Image in the paper's setting, and the published metric encoders."""
    return Size(
        checkpoint=published_checkpoint(QwenImageSpec.family, "Qwen/Qwen-Image"),
        image=1024,
        steps=50,
        layers=tuple(range(18, 26)),
        training_steps=10,
        encoders={
            "CLIP ViT-B/32": (64, lambda: open_clip.create_model("ViT-B-32-quickgelu").visual),
            "PickScore, HPS: CLIP ViT-H/14": (16, lambda: open_clip.create_model("ViT-H-14").visual),
            "DINO ViT-S/16": (64, lambda: vit(hidden_size=384, num_attention_heads=6, intermediate_size=1536)),
            "SAM ViT-H": (1, sam),
        },
    )


def small_size() -> Size:
    """Return the same kinds of models with shapes for a CPU."""
    return Size(
        checkpoint=open_checkpoint(QwenImageSpec.family, str(WEIGHTS / "pipeline"), None, weights=False),
        image=64,
        steps=4,
        layers=(3, 4),
        training_steps=3,
        encoders={"ViT of two layers": (4, lambda: vit(num_hidden_layers=2))},
    )


def vit(**changes: int) -> nn.Module:
    model: nn.Module = transformers.ViTModel(transformers.ViTConfig(**changes), add_pooling_layer=False)
    return model


def sam() -> nn.Module:
    config = transformers.SamVisionConfig(
        hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=[7, 15, 23, 31]
    )
    model: nn.Module = transformers.SamVisionModel(config)
    return model


def random_backbone(size: Size, spec: QwenImageSpec, device: torch.device) -> DiffusersBackbone:
    """Return the backbone with random weights, created on its device."""
    dtype = getattr(torch, spec.dtype)
    with quiet_libraries(), default_dtype(dtype), device:
        transformer = QwenImageTransformer2DModel.from_config(size.checkpoint.transformer)
        vae = AutoencoderKLQwenImage.from_config(size.checkpoint.vae)
        text_encoder = Qwen2_5_VLForConditionalGeneration(text_encoder_config(size.checkpoint))
    for model in (transformer, vae, text_encoder):
        # transformers uses the dtype saved in the configuration.
        randomize(model.to(dtype))
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(WEIGHTS / "pipeline", subfolder="scheduler")
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer")
    return DiffusersBackbone(spec, QwenImagePipeline(scheduler, vae, text_encoder, tokenizer, transformer), device)


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Fill matrices with small random values; vectors (norms, biases) keep theirs."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, STD)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def image_size(model: Any) -> tuple[int, int]:
    size = model.image_size if hasattr(model, "image_size") else model.config.image_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])
