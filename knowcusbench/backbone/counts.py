"""How many parameters and operations a checkpoint has: recorded for the shapes that ship, counted once for any other.

Counting builds the models without storage, which takes torch, diffusers and transformers, and seconds. What was counted
is known by the digest of the checkpoint's configuration files: in `published/counts.json`, or in a directory of the
user's cache.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from knowcusbench.backbone.checkpoint import Checkpoint
from knowcusbench.storage.files import write_atomic

TRAINING_FORWARDS = 3
"""A LoRA step in units of a forward: the forward, its recomputation under gradient checkpointing, and the
backward through the activations (the frozen weights need no gradient). Counted at full width: 3.13."""

COUNTING = 1
"""Changes when the same files would give other counts; part of the digest."""

RECORDED = Path(__file__).parent / "published" / "counts.json"


@dataclass(frozen=True)
class Counts:
    """Sizes and operation counts of a checkpoint at one image size.

    Attributes:
        parameters: by component ("transformer", "text_encoder", "vae").
        forward_flops: floating-point operations of a forward of the transformer at batch 1, for a prompt of
            `Family.counted_tokens`.
        decode_flops: the same of decoding one image.
    """

    parameters: Mapping[str, int]
    forward_flops: float
    decode_flops: float


def counts_of(checkpoint: Checkpoint, *, height: int, width: int, kept: Path | None = None) -> Counts:
    """The counts of a checkpoint for images of `height` x `width`.

    Those that are not recorded are counted, and read from `kept`, a directory, the next time; without one they are
    forgotten with the process.
    """
    key = counts_digest(checkpoint, height=height, width=width)
    if key in recorded_counts():
        return recorded_counts()[key]
    file = kept / f"{key}.json" if kept else None
    found = _read(file) if file else None
    if found is None:
        from knowcusbench.backbone.counting import count_checkpoint

        found = count_checkpoint(checkpoint, height=height, width=width)
        if file:
            write_atomic(file, (json.dumps(asdict(found), indent=2) + "\n").encode())
    return found


def counts_digest(checkpoint: Checkpoint, *, height: int, width: int) -> str:
    """32 hex digits over the contents of the configuration files and all that is counted with."""
    content = {
        "counting": COUNTING,
        "transformer": checkpoint.transformer,
        "vae": checkpoint.vae,
        "text_encoder": checkpoint.text_encoder,
        "image": [height, width],
        "prompt_tokens": checkpoint.family.counted_tokens,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


@cache
def recorded_counts() -> Mapping[str, Counts]:
    """The counts that ship with the package, by digest. `counts.json` also says what each is of."""
    entries: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return {key: Counts(**entry["counts"]) for key, entry in entries.items()}


def _read(file: Path) -> Counts | None:
    """Return the counts that were kept; None if nothing was, or the file is damaged."""
    try:
        return Counts(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def weight_bytes(
    parameters: Mapping[str, int], bytes_per_parameter: float, transformer_bytes_per_parameter: float | None
) -> dict[str, int]:
    """Bytes of the weights by component; those of the transformer as `bytes_per_parameter` unless told otherwise."""
    bytes_each = dict.fromkeys(parameters, bytes_per_parameter)
    if transformer_bytes_per_parameter:
        bytes_each["transformer"] = transformer_bytes_per_parameter
    return {name: round(count * bytes_each[name]) for name, count in parameters.items()}
