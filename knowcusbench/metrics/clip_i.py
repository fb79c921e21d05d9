"""CLIP-I: similarity of an image to the concept's reference images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from knowcusbench.metrics.base import Metric, Score, ScoreItem, finite_score, require_references
from knowcusbench.metrics.clip import ClipSpec


def mean_cosine(image: Tensor, references: Tensor) -> float:
    """`1/R sum_r <image, reference_r>` in fp64: the mean cosine of an image with R reference images.

    Args:
        image: unit-norm embedding (dim,).
        references: unit-norm embeddings (R, dim), R >= 1.

    Returns a number in [-1, 1]. All pairs count the same: averaged over a concept's images this is the mean
    over all (generated, reference) pairs, as in DreamBooth (arXiv 2208.12242, section 4.1).
    """
    return float((references.double() @ image.double()).mean())


@dataclass(frozen=True, kw_only=True)
class ClipI(Metric):
    """Mean CLIP cosine of the image with every reference image of the concept, by `mean_cosine`.

    Attributes:
        encoder: the CLIP whose image tower is used, with its own preprocessing (shortest side to the input
            size, centre crop).
    """

    name: ClassVar[str] = "clip_i"
    title: ClassVar[str] = "CLIP-I"
    uses_references: ClassVar[bool] = True

    encoder: ClipSpec

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        require_references(self, items)
        files = [file for item in items for file in (item.image, *item.references)]
        embeddings = self.encoder.load().embed_files(files)
        scores = []
        for item in items:
            references = torch.stack([embeddings[file] for file in item.references])
            scores.append(finite_score(self, item, mean_cosine(embeddings[item.image], references)))
        return scores

    def weights(self) -> Mapping[str, str]:
        return self.encoder.weights()
