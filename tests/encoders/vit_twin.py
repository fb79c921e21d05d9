"""A DINO's weights in timm, with pixels from Pillow and numpy."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from encoders.clip_twin import Features, unit
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

RENAMED = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)


class VitTwin:
    """timm's `VisionTransformer` for images of 224 pixels."""

    def __init__(self, directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        weights = to_timm(load_file(directory / "model.safetensors"))
        self.model = VisionTransformer(
            img_size=224,
            patch_size=config["patch_size"],
            embed_dim=config["hidden_size"],
            depth=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_classes=0,
            init_values=1.0 if config["model_type"] == "dinov2" else None,
            norm_layer=partial(nn.LayerNorm, eps=config["layer_norm_eps"]),
        ).eval()
        weights["pos_embed"] = resized(weights["pos_embed"], 224 // config["patch_size"])
        self.model.load_state_dict(weights)

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Features:
        pixels = torch.from_numpy(np.stack([prepared(image) for image in images])).float()
        return unit(self.model.forward_features(pixels)[:, 0])


def to_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in weights.items():
        if name == "embeddings.mask_token":
            continue
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    for block in {name.partition(".attention.attention.")[0] for name in found if ".attention.attention." in name}:
        for kind in ("weight", "bias"):
            parts = [found.pop(f"{block}.attention.attention.{part}.{kind}") for part in ("query", "key", "value")]
            found[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
    return found


def resized(positions: Tensor, side: int) -> Tensor:
    """Return position embeddings (1, 1 + patches, width) for side x side patches."""
    grid = positions[0, 1:].unflatten(0, (round((positions.shape[1] - 1) ** 0.5), -1))
    grid = nn.functional.interpolate(grid.permute(2, 0, 1)[None], (side, side), mode="bicubic")[0]
    return torch.cat([positions[:, :1], grid.permute(1, 2, 0).flatten(0, 1)[None]], dim=1)


def prepared(image: Image.Image) -> NDArray[np.float64]:
    """Return (3, 224, 224): shortest side to 256, centre crop, ImageNet's mean and standard deviation."""
    short = min(image.size)
    width, height = (int(256 * side / short) for side in image.size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    small = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    values = np.asarray(small) / 255
    return ((values - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
