"""The miniature CLIP's weights in another library, to compare with."""

import re
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

Features = NDArray[np.float64]


class ClipTwin:
    """The miniature CLIP's weights in transformers' `CLIPModel`, fed by torchvision transforms."""

    def __init__(self, directory: Path) -> None:
        tower = {"num_attention_heads": 4, "hidden_act": "quick_gelu", "projection_dim": 64}
        config = CLIPConfig(
            projection_dim=64,
            vision_config=tower
            | {
                "hidden_size": 64,
                "intermediate_size": 256,
                "num_hidden_layers": 4,
                "image_size": 64,
                "patch_size": 8,
            },
            text_config=tower
            | {
                "hidden_size": 32,
                "intermediate_size": 128,
                "num_hidden_layers": 3,
                "vocab_size": 49408,
                "eos_token_id": 49407,
            },
        )
        weights = load_file(directory / "open_clip_model.safetensors")
        self.model = CLIPModel(config).eval()
        self.model.load_state_dict(_to_transformers({name: t.float() for name, t in weights.items()}))
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
    def texts(self, texts: Sequence[str]) -> Features:
        """Texts cut to 77 tokens by hand: the first 76, then the end token."""
        rows = [SimpleTokenizer().encode(text) for text in texts]
        rows = [[49406, *row[:75], 49407] for row in rows]
        ids = torch.tensor([row + [0] * (77 - len(row)) for row in rows])
        return _unit(self.model.get_text_features(ids).pooler_output)


def _unit(features: torch.Tensor) -> Features:
    rows = features.double().numpy()
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


RENAMED = (
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"\.ln_1\.", ".layer_norm1."),
    (r"\.ln_2\.", ".layer_norm2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
)


def _to_transformers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's names for the weights of a CLIP to those of transformers."""
    renamed = {}
    for name, tensor in weights.items():
        if name in ("visual.proj", "text_projection"):
            renamed["visual_projection.weight" if "visual" in name else "text_projection.weight"] = tensor.T
            continue
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if match := re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name):
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{match[1]}.self_attn.{part}_proj.{match[2]}"] = rows
        else:
            renamed[name] = tensor
    return renamed
