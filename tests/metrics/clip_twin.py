"""The miniature CLIP's weights in another library, to compare with."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms
from transformers import CLIPConfig, CLIPModel

from knowcusbench.toybox.encoders import to_transformers

Features = NDArray[np.float64]


class ClipTwin:
    """The miniature CLIP's weights in transformers' `CLIPModel`, fed by torchvision transforms."""

    def __init__(self, directory: Path) -> None:
        described = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
        vision, text = described["vision_cfg"], described["text_cfg"]
        common = {"hidden_act": "quick_gelu", "projection_dim": described["embed_dim"]}
        config = CLIPConfig(
            projection_dim=described["embed_dim"],
            vision_config=common
            | {
                "hidden_size": vision["width"],
                "intermediate_size": 4 * vision["width"],
                "num_hidden_layers": vision["layers"],
                "num_attention_heads": vision["width"] // vision["head_width"],
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
        weights = load_file(directory / "open_clip_model.safetensors")
        self.model = CLIPModel(config).eval()
        self.model.load_state_dict(to_transformers({name: t.float() for name, t in weights.items()}))
        self.preprocess = transforms.Compose(
            [
                transforms.Resize(64, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(64),
                transforms.ToTensor(),
                transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
            ]
        )

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Features:
        pixels = torch.stack([self.preprocess(image) for image in images])
        return _unit(self.model.get_image_features(pixels).pooler_output)

    @torch.no_grad()
    def patches(self, images: Sequence[Image.Image]) -> Features:
        """Patch tokens of the last block behind the last norm: (images, patches, width)."""
        pixels = torch.stack([self.preprocess(image) for image in images])
        tower = self.model.vision_model
        normed = tower.post_layernorm(tower(pixels).last_hidden_state[:, 1:])
        features: Features = normed.double().numpy()
        return features

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Features:
        """Texts cut to 77 tokens by hand: the first 76, then the end token."""
        rows = [SimpleTokenizer().encode(text) for text in texts]
        rows = [[49406, *row[:75], 49407] for row in rows]
        ids = torch.tensor([row + [0] * (77 - len(row)) for row in rows])
        return _unit(self.model.get_text_features(ids).pooler_output)


def _unit(features: torch.Tensor) -> Features:
    rows = features.double().numpy()
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))
