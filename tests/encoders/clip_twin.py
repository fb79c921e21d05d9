"""The miniature CLIP's weights in another library, for comparison."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision import transforms
from transformers import CLIPConfig, CLIPModel

from knowcusbench.toybox.models.clip_transformers import to_transformers

Features = NDArray[np.float64]


def clip_in_transformers(described: Mapping[str, Any], weights: Mapping[str, Tensor]) -> CLIPModel:
    """Return the weights of an `open_clip.CLIP` as a transformers model.

    Args:
        described: the `model_cfg` of open_clip's configuration.
    """
    vision, text = described["vision_cfg"], described["text_cfg"]
    activation = "quick_gelu" if described.get("quick_gelu") else "gelu"
    common = {"hidden_act": activation, "projection_dim": described["embed_dim"]}
    config = CLIPConfig(
        projection_dim=described["embed_dim"],
        vision_config=common
        | {
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        text_config=common
        | {
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "vocab_size": text["vocab_size"],
            "eos_token_id": 49407,
        },
    )
    model = CLIPModel(config).eval()
    model.load_state_dict(dict(to_transformers({name: tensor.float() for name, tensor in weights.items()})))
    return model


def token_ids(texts: Sequence[str]) -> Tensor:
    """Return token ids truncated to 77 by hand: the first 76, then the end token."""
    rows = [SimpleTokenizer().encode(text) for text in texts]
    rows = [[49406, *row[:75], 49407] for row in rows]
    return torch.tensor([row + [0] * (77 - len(row)) for row in rows])


class ClipTwin:
    """A CLIP's weights in transformers' `CLIPModel`, fed by torchvision transforms."""

    def __init__(self, directory: Path) -> None:
        described = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
        size = described["vision_cfg"]["image_size"]
        self.model = clip_in_transformers(described, load_file(directory / "open_clip_model.safetensors"))
        self.preprocess = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
            ]
        )

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Features:
        pixels = torch.stack([self.preprocess(image) for image in images])
        return unit(self.model.get_image_features(pixels).pooler_output)

    @torch.no_grad()
    def patches(self, images: Sequence[Image.Image]) -> Features:
        """Return patch tokens of the last block after the last norm: (images, patches, width)."""
        pixels = torch.stack([self.preprocess(image) for image in images])
        tower = self.model.vision_model
        normed = tower.post_layernorm(tower(pixels).last_hidden_state[:, 1:])
        features: Features = normed.double().numpy()
        return features

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Features:
        return unit(self.model.get_text_features(token_ids(texts)).pooler_output)


def unit(features: Tensor) -> Features:
    """Return features divided by their norm, in fp64."""
    rows = features.double().numpy()
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))
