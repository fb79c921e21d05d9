"""The miniature metric encoders: untrained models in the checkpoint forms of the published ones.

Each builder writes one directory, the same weights every time (for one version of torch), and needs no
download. All models see 64x64 images.
"""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from open_clip.tokenizer import bytes_to_unicode, default_bpe
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
)

SEED = 0
IMAGE_SIZE = 64
CONTEXT_LENGTH = 77

CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 64,
        "quick_gelu": True,
        "vision_cfg": {"image_size": IMAGE_SIZE, "layers": 4, "width": 64, "head_width": 16, "patch_size": 8},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": 32,
            "heads": 4,
            "layers": 3,
        },
    },
    "preprocess_cfg": {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
"""`open_clip_config.json`. The vocabulary is that of CLIP's own tokenizer, which open_clip carries in its
package; the text tower is narrow because the vocabulary makes up nearly all of its weights."""

MERGES = 2000
"""How many of CLIP's byte-pair merges the miniature PickScore's tokenizer has."""


def build_clip(directory: Path) -> None:
    """Write a CLIP in open_clip's form: `open_clip_config.json` and `open_clip_model.safetensors` (fp16, as
    OpenAI's weights were published)."""
    with _seeded():
        model = open_clip.CLIP(**CLIP_CONFIG["model_cfg"])
    directory.mkdir(parents=True)
    (directory / "open_clip_config.json").write_text(json.dumps(CLIP_CONFIG, indent=2))
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, directory / "open_clip_model.safetensors", metadata={"format": "pt"})


def build_pickscore(directory: Path) -> None:
    """Write a transformers `CLIPModel` with its `CLIPProcessor`."""
    tokenizer = _clip_tokenizer()
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    tokens = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": CONTEXT_LENGTH,
    }
    config = CLIPConfig(
        projection_dim=64,
        text_config=tower | tokens | {"hidden_act": "gelu", "projection_dim": 64},
        vision_config=tower | {"image_size": IMAGE_SIZE, "patch_size": 8, "hidden_act": "gelu", "projection_dim": 64},
    )
    with _seeded():
        model = CLIPModel(config)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    _save(directory, model, CLIPProcessor(image_processor=images, tokenizer=tokenizer))


def build_sam(directory: Path) -> None:
    """Write a transformers `SamModel` with its `SamProcessor`."""
    patch, width = 4, 32
    config = SamConfig(
        vision_config={
            "image_size": IMAGE_SIZE,
            "patch_size": patch,
            "hidden_size": 64,
            "mlp_dim": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "global_attn_indexes": [1, 3],
            "window_size": 8,
            "output_channels": width,
            "num_pos_feats": width // 2,
        },
        prompt_encoder_config={
            "image_size": IMAGE_SIZE,
            "patch_size": patch,
            "hidden_size": width,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 128,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": width,
        },
    )
    with _seeded():
        model = SamModel(config)
    low_resolution = IMAGE_SIZE // patch * 4
    images = SamImageProcessor(
        size={"longest_edge": IMAGE_SIZE},
        pad_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        mask_size={"longest_edge": low_resolution},
        mask_pad_size={"height": low_resolution, "width": low_resolution},
    )
    _save(directory, model, SamProcessor(image_processor=images))


@contextmanager
def _seeded() -> Iterator[None]:
    """Random initialisation from `SEED`; the global generator is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        yield


def _save(directory: Path, *parts: Any) -> None:
    transformers.utils.logging.disable_progress_bar()
    for part in parts:
        part.save_pretrained(directory)


def _clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with the first `MERGES` merges of its byte-pair vocabulary, so that it spells rare
    words in more pieces."""
    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode().split("\n")
    merges = [(left, right) for left, right in map(str.split, lines[1 : MERGES + 1])]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)
