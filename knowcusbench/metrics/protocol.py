"""What a score leaves open, and a protocol decides: which references, paired how, against which text, averaged how."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from knowcusbench.benchmark.types import RARE_TOKEN

if TYPE_CHECKING:
    from torch import Tensor


PLACEHOLDER = "{}"

_RARE = re.compile(rf"(?<![\w'-])(?:{RARE_TOKEN}(?![\w'-])|<[^<>\s]+>|\[[Vv]\d*\*?\])")


class ReferencePairing(StrEnum):
    """How an image is compared with several references: the mean over `all`, the `nearest` one, or a `single` one, the
    first."""

    all = "all"
    nearest = "nearest"
    single = "single"


class ReferenceSplit(StrEnum):
    """Which references count: those that methods were shown (`train`), those that were kept from them (`held_out`, as
    many as `grid.held_out` says), or `all`."""

    all = "all"
    train = "train"
    held_out = "held_out"


def split_of(train: Sequence[Path], held_out: Sequence[Path], split: ReferenceSplit) -> tuple[Path, ...]:
    """The reference images of a split."""
    return {
        ReferenceSplit.train: (*train,),
        ReferenceSplit.held_out: (*held_out,),
        ReferenceSplit.all: (*train, *held_out),
    }[split]


class TextForm(StrEnum):
    """What stands for the concept in the text that an image is compared with.

    Attributes:
        class_noun: its class noun ("a dog on the beach"): no text encoder of a metric knows the knowledge.
        phrase: the knowledge phrase ("my birthday gift on the beach").
        stripped: what the method was prompted with, less rare tokens ("sks dog" and "<new1> dog" become "dog").
        background: nothing: the rest of the prompt alone ("on the beach").
    """

    class_noun = "class_noun"
    phrase = "phrase"
    stripped = "stripped"
    background = "background"


class Reduction(StrEnum):
    """How scores become one number: the mean over concepts of each concept's mean (`macro`), or the mean over all
    samples (`micro`)."""

    macro = "macro"
    micro = "micro"


def paired_cosine(image: Tensor, references: Tensor, pairing: ReferencePairing) -> float:
    """The cosine, in [-1, 1] and fp64, of an image with R reference images by `pairing`.

    `all` is `1/R sum_r <image, reference_r>`: averaged over a concept's images it is the mean over all (generated,
    reference) pairs, as in DreamBooth (arXiv 2208.12242, section 4.1).

    Args:
        image: unit-norm embedding (dim,).
        references: unit-norm embeddings (R, dim), R >= 1.
    """
    cosines = references.double() @ image.double()
    match pairing:
        case ReferencePairing.all:
            return float(cosines.mean())
        case ReferencePairing.nearest:
            return float(cosines.max())
        case ReferencePairing.single:
            return float(cosines[0])


def scaled_cosine(image: Tensor, text: Tensor, scale: float, clamp: bool = False) -> float:
    """`scale * <image, text>` in fp64, for unit-norm embeddings (dim,): a number in [-scale, scale]. With `clamp`
    negative cosines count as zero, as in CLIPScore (arXiv 2104.08718)."""
    cosine = float(image.double() @ text.double())
    return scale * (max(cosine, 0.0) if clamp else cosine)


def mean_direction(embeddings: Tensor) -> Tensor:
    """The mean of unit-norm embeddings (n, dim), of unit norm and in fp64 (dim,)."""
    import torch

    mean = embeddings.double().mean(0)
    direction: Tensor = mean / torch.linalg.vector_norm(mean)
    return direction


def without_rare_tokens(text: str) -> str:
    """Return a text less what stands before a class noun to name a learned concept: "sks", and tokens in brackets
    ("<new1>", "[V]"). White space is collapsed."""
    return " ".join(_RARE.sub(" ", text).split())
