"""The miniature metric encoders: small models in the checkpoint formats of the published ones.

Each function without an argument returns an untrained model, with the same weights every time (for one version of
torch); `save_*` write checkpoints; `build_*` do both. All models take 64x64 images, and nothing needs a download.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
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

from knowcusbench.toybox.models.clip_transformers import published_merges
from knowcusbench.toybox.world.language import PROMPTS
from knowcusbench.toybox.world.vocabulary import sentences

SEED = 0
IMAGE_SIZE = 64
PATCH_SIZE = 8
CONTEXT_LENGTH = 77
EMBED_DIM = 128
HEADS = 4
VISION_WIDTH, VISION_LAYERS = 128, 3
TEXT_WIDTH, TEXT_LAYERS = 48, 3

CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": EMBED_DIM,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": IMAGE_SIZE,
            "layers": VISION_LAYERS,
            "width": VISION_WIDTH,
            "head_width": VISION_WIDTH // HEADS,
            "patch_size": PATCH_SIZE,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": TEXT_WIDTH,
            "heads": HEADS,
            "layers": TEXT_LAYERS,
        },
    },
    "preprocess_cfg": {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
"""Content of `open_clip_config.json`.

The vocabulary is that of CLIP's own tokenizer, which is part of open_clip's package. The text tower is narrow because
the vocabulary makes up nearly all of its weights.
"""

MERGES = 2000
"""Number of CLIP's byte-pair merges in the miniature PickScore's tokenizer, besides those of the world's words."""


def clip_model() -> open_clip.CLIP:
    with _seeded():
        return open_clip.CLIP(**CLIP_CONFIG["model_cfg"])


def save_clip(model: open_clip.CLIP, directory: Path) -> None:
    """Write a new directory in open_clip's format: `open_clip_config.json` and `open_clip_model.safetensors`.

    The weights are in fp16, as published by OpenAI.
    """
    directory.mkdir(parents=True)
    (directory / "open_clip_config.json").write_text(json.dumps(CLIP_CONFIG, indent=2), encoding="utf-8")
    weights = {name: tensor.detach().half().contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(weights, directory / "open_clip_model.safetensors", metadata={"format": "pt"})


def build_clip(directory: Path) -> None:
    """Write an untrained CLIP."""
    save_clip(clip_model(), directory)


def pickscore_processor() -> CLIPProcessor:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    return CLIPProcessor(image_processor=images, tokenizer=_clip_tokenizer())


def pickscore_model() -> CLIPModel:
    """Return the CLIP of `CLIP_CONFIG` in transformers, with a smaller vocabulary."""
    tokenizer = _clip_tokenizer()
    common = {"num_attention_heads": HEADS, "hidden_act": "quick_gelu", "projection_dim": EMBED_DIM}
    text = {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": CONTEXT_LENGTH,
    }
    vision = {
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 4 * VISION_WIDTH,
        "num_hidden_layers": VISION_LAYERS,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }
    config = CLIPConfig(projection_dim=EMBED_DIM, text_config=common | text, vision_config=common | vision)
    with _seeded():
        return CLIPModel(config)


def save_pickscore(model: CLIPModel, directory: Path) -> None:
    """Write a transformers `CLIPModel` with its `CLIPProcessor`.

    The weights are in fp16, the configuration says fp32: transformers loads them in fp32.
    """
    transformers.utils.logging.disable_progress_bar()
    weights = {name: tensor.half().cpu() for name, tensor in model.state_dict().items()}
    model.save_pretrained(directory, state_dict=weights)
    pickscore_processor().save_pretrained(directory)


def build_pickscore(directory: Path) -> None:
    """Write an untrained PickScore."""
    save_pickscore(pickscore_model(), directory)


SAM_PATCH_SIZE = 4


def sam_processor() -> SamProcessor:
    low_resolution = IMAGE_SIZE // SAM_PATCH_SIZE * 4
    images = SamImageProcessor(
        size={"longest_edge": IMAGE_SIZE},
        pad_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        mask_size={"longest_edge": low_resolution},
        mask_pad_size={"height": low_resolution, "width": low_resolution},
    )
    return SamProcessor(image_processor=images)


def sam_model() -> SamModel:
    width = 64
    config = SamConfig(
        vision_config={
            "image_size": IMAGE_SIZE,
            "patch_size": SAM_PATCH_SIZE,
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
            "patch_size": SAM_PATCH_SIZE,
            "hidden_size": width,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 2 * width,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": width,
        },
    )
    with _seeded():
        model = SamModel(config)
    # Prompts a pixel apart must be similar: wavelengths as in the authors' package, where transformers starts with far
    # shorter ones.
    with torch.no_grad():
        model.shared_image_embedding.positional_embedding /= config.vision_config.scale
    return model


def save_sam(model: SamModel, directory: Path) -> None:
    """Write a transformers `SamModel` with its `SamProcessor`, in fp32."""
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(directory)
    sam_processor().save_pretrained(directory)


def build_sam(directory: Path) -> None:
    """Write an untrained SAM."""
    save_sam(sam_model(), directory)


def world_texts() -> Iterator[str]:
    """Yield texts with all words of the world."""
    yield from sentences()
    yield from PROMPTS
    yield "a thing"


@contextmanager
def _seeded() -> Iterator[None]:
    """Initialise from `SEED`; afterwards the global generator is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        yield


def _clip_tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer with a part of its byte-pair merges: the first `MERGES`, and all for the world's words.

    It spells these words like CLIP, and rare words in more pieces.
    """
    merges = _merges()
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)


@cache
def _merges() -> list[tuple[str, str]]:
    published = published_merges()
    rank = {merge: place for place, merge in enumerate(published)}
    clip = SimpleTokenizer()
    tokens = {clip.decoder[index] for text in world_texts() for index in clip.encode(text)}
    needed = {rank[merge] for token in tokens for merge in _merges_of(token, rank)}
    return [published[place] for place in sorted(needed | set(range(MERGES)))]


def _merges_of(token: str, rank: Mapping[tuple[str, str], int]) -> Iterable[tuple[str, str]]:
    """Yield the merges that build a token from its letters, in order."""
    ends = token.endswith("</w>")
    pieces = list(token.removesuffix("</w>"))
    if ends:
        pieces[-1] += "</w>"
    while len(pieces) > 1:
        merge = min(itertools.pairwise(pieces), key=lambda pair: rank.get(pair, len(rank)))
        yield merge
        joined: list[str] = []
        for piece in pieces:
            if joined and (joined[-1], piece) == merge:
                joined[-1] += piece
            else:
                joined.append(piece)
        pieces = joined
