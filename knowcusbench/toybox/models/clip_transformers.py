"""The miniature CLIP in transformers' format, made from files alone: a plan can make it without torch.

The miniature PickScore is a CLIP of the same architecture in that format, with a smaller vocabulary. Its configuration,
processor and tokenizer are used with CLIP's own vocabulary.
"""

import gzip
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from knowcusbench.toybox.shipped import WEIGHTS

COPIED = ("processor_config.json", "tokenizer_config.json")

START, END = "<|startoftext|>", "<|endoftext|>"

BYTES = 256
"""Number of bytes; each is a letter of the vocabulary twice, inside and at the end of a word."""


def save_clip_transformers(clip: Path, directory: Path, like: Path = WEIGHTS / "pickscore") -> None:
    """Convert a CLIP directory from open_clip's format to a transformers `CLIPModel` with its `CLIPProcessor`.

    The weights are the same, and the tokens exactly the same.

    Args:
        like: a CLIP of the same architecture in transformers' format, with another vocabulary.
    """
    import numpy as np
    from safetensors.numpy import load_file, save_file

    directory.mkdir(parents=True)
    converted = to_transformers(load_file(clip / "open_clip_model.safetensors"))
    # safetensors writes the memory layout of an array, even of a transposed one.
    weights = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in converted}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    for name in COPIED:
        shutil.copyfile(like / name, directory / name)
    tokenizer = _json(like / "tokenizer.json")
    letters = list(tokenizer["model"]["vocab"])[: 2 * BYTES]
    merges = published_merges()
    words = [*letters, *(f"{left}{right}" for left, right in merges), START, END]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer["model"] |= {"vocab": vocabulary, "merges": [list(merge) for merge in merges]}
    for token in tokenizer["added_tokens"]:
        token["id"] = vocabulary[token["content"]]
    tokenizer["post_processor"] |= {"sep": [END, vocabulary[END]], "cls": [START, vocabulary[START]]}
    _write(directory / "tokenizer.json", tokenizer)
    config = _json(like / "config.json")
    config["text_config"] |= {
        "vocab_size": len(vocabulary),
        "bos_token_id": vocabulary[START],
        "eos_token_id": vocabulary[END],
        "pad_token_id": vocabulary[END],
    }
    _write(directory / "config.json", config)


def published_merges() -> list[tuple[str, str]]:
    """Return the byte-pair merges of CLIP's own tokenizer, from open_clip's package."""
    package = find_spec("open_clip")
    assert package
    assert package.origin
    lines = gzip.decompress((Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    words = lines.split("\n")[1 : 49152 - BYTES - 2 + 1]
    return [(left, right) for left, right in map(str.split, words)]


_RENAMED = (
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


def to_transformers(weights: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield weights of an `open_clip.CLIP` (arrays or tensors) with the names and shapes of a `CLIPModel`."""
    for name, tensor in weights.items():
        if name in ("visual.proj", "text_projection"):
            yield "visual_projection.weight" if "visual" in name else "text_projection.weight", tensor.T
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if match := re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name):
            rows = len(tensor) // 3
            for number, part in enumerate("qkv"):
                yield f"{match[1]}.self_attn.{part}_proj.{match[2]}", tensor[number * rows : (number + 1) * rows]
        else:
            yield name, tensor


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
