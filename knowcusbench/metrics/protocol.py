"""Choices that a protocol makes for a score: which references, their pairing, the compared text, and the mean."""

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
    """Pairing of an image with several references: the mean over `all`, the `nearest` one, or a `single` one, the
    first."""

    all = "all"
    nearest = "nearest"
    single = "single"


class ReferenceSplit(StrEnum):
    """Split of the references that count: `train`, which methods see; `held_out`, which they never see (as many as
    `grid.held_out` says); or `all`."""

    all = "all"
    train = "train"
    held_out = "held_out"


def split_of(train: Sequence[Path], held_out: Sequence[Path], split: ReferenceSplit) -> tuple[Path, ...]:
    """Return the reference images of a split.

    >>> split_of([Path("00.jpg")], [Path("01.jpg")], ReferenceSplit.all)
    (PosixPath('00.jpg'), PosixPath('01.jpg'))
    """
    return {
        ReferenceSplit.train: (*train,),
        ReferenceSplit.held_out: (*held_out,),
        ReferenceSplit.all: (*train, *held_out),
    }[split]


class TextForm(StrEnum):
    """The words that stand for the concept in the text that an image is compared with.

    Attributes:
        class_noun: its class noun ("a dog on the beach"), since no metric's text encoder knows the knowledge.
        phrase: the knowledge phrase ("my birthday gift on the beach").
        stripped: the method's own words without rare tokens ("sks dog" and "<new1> dog" become "dog").
        background: no words: only the rest of the prompt ("on the beach").
    """

    class_noun = "class_noun"
    phrase = "phrase"
    stripped = "stripped"
    background = "background"


class Reduction(StrEnum):
    """Reduction of scores to one number: the mean over concepts of each concept's mean (`macro`), or the mean over all
    samples (`micro`)."""

    macro = "macro"
    micro = "micro"


def paired_cosine(image: Tensor, references: Tensor, pairing: ReferencePairing) -> float:
    """Return the cosine, in [-1, 1] and fp64, of an image with R reference images by `pairing`.

    `all` is `1/R sum_r <image, reference_r>`. Averaged over a concept's images, it is the mean over all (generated,
    reference) pairs, as in DreamBooth (arXiv 2208.12242, section 4.1).

    Args:
        image: unit-norm embedding (dim,).
        references: unit-norm embeddings (R, dim), R >= 1.

    >>> import torch
    >>> image, references = torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> paired_cosine(image, references, ReferencePairing.all)
    0.5
    >>> paired_cosine(image, references, ReferencePairing.nearest)
    1.0
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
    """Return `scale * <image, text>` in fp64, in [-scale, scale], for unit-norm embeddings (dim,).

    With `clamp`, negative cosines count as zero, as in CLIPScore (arXiv 2104.08718).

    >>> import torch
    >>> image, text = torch.tensor([1.0, 0.0]), torch.tensor([-0.6, 0.8])
    >>> round(scaled_cosine(image, text, 100.0), 4), scaled_cosine(image, text, 100.0, clamp=True)
    (-60.0, 0.0)
    """
    cosine = float(image.double() @ text.double())
    return scale * (max(cosine, 0.0) if clamp else cosine)


def mean_direction(embeddings: Tensor) -> Tensor:
    """Return the mean of unit-norm embeddings (n, dim), normalised again, in fp64 (dim,).

    >>> import torch
    >>> mean_direction(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor([0.7071, 0.7071], dtype=torch.float64)
    """
    import torch

    mean = embeddings.double().mean(0)
    direction: Tensor = mean / torch.linalg.vector_norm(mean)
    return direction


def without_rare_tokens(text: str) -> str:
    """Return a text without the tokens that name a learned concept: "sks", and tokens in brackets ("<new1>", "[V]").

    White space is collapsed.

    >>> without_rare_tokens("a photo of sks dog and <new1> cat")
    'a photo of dog and cat'
    """
    return " ".join(_RARE.sub(" ", text).split())
