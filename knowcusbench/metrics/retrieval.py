"""Concept retrieval: is an image nearest to its own concept, among all of them?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from knowcusbench.benchmark.types import Concept
from knowcusbench.encoders.base import ImageEncoder
from knowcusbench.errors import ConfigError
from knowcusbench.metrics.base import Score, ScoreItem, finite_score
from knowcusbench.metrics.bounds import SHARE, Bounds
from knowcusbench.metrics.image_similarity import EmbeddingMetric
from knowcusbench.metrics.protocol import mean_direction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ConceptRetrieval(EmbeddingMetric):
    """1 if the image's nearest concept is its own, else 0; nearest by cosine with a concept's mean reference embedding.

    The mean is top-1 accuracy. Chance is one over the number of concepts.
    """

    name: ClassVar[str] = "retrieval"
    title: ClassVar[str] = "Retrieval"

    @property
    def bounds(self) -> Bounds:
        return SHARE

    def check(self, concepts: Sequence[Concept]) -> None:
        super().check(concepts)
        if len(concepts) < 2:
            raise ConfigError(
                f"metrics.{self.name}: needs two concepts to tell apart, and the grid has {len(concepts)}"
            )

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        import torch

        own = [item.compared(self, self.references) for item in items]
        galleries = {files for item in items for files in item.gallery.values()}
        encoder: ImageEncoder = self.encoder.load()
        embeddings = encoder.embed_files(
            [*(item.image for item in items), *(file for files in {*own, *galleries} for file in files)]
        )
        means: dict[tuple[Path, ...], Tensor] = {
            files: mean_direction(torch.stack([embeddings[file] for file in files])) for files in {*own, *galleries}
        }
        scores = []
        for item, files in zip(items, own, strict=True):
            image = embeddings[item.image].double()
            others = [means[theirs] @ image for concept, theirs in item.gallery.items() if concept != item.concept]
            hit = all(bool(means[files] @ image > other) for other in others)
            scores.append(finite_score(self, item, float(hit)))
        return scores
