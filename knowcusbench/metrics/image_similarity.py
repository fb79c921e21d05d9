"""Similarity of an image to the concept's reference images: the common part of CLIP-I and DINO-I."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from knowcusbench.benchmark.types import Concept
from knowcusbench.encoders.base import EncoderSpec, ImageEncoder
from knowcusbench.errors import ConfigError
from knowcusbench.metrics.base import Metric, Score, ScoreItem, finite_score
from knowcusbench.metrics.bounds import Bounds, cosine_bounds
from knowcusbench.metrics.protocol import ReferencePairing, ReferenceSplit, paired_cosine, split_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ReferenceMetric(Metric):
    """A metric that compares with reference images.

    Attributes:
        references: the split of the references that is compared.
    """

    uses_references: ClassVar[bool] = True

    references: ReferenceSplit = ReferenceSplit.train

    def check(self, concepts: Sequence[Concept]) -> None:
        for concept in concepts:
            count = len(split_of(concept.images, concept.held_out, self.references))
            if count < self.least_references:
                raise ConfigError(
                    f"metrics.{self.name}: needs {self.least_references} reference images of the split "
                    f"{self.references}, and {concept.name} has {count}; change grid.held_out= or "
                    "protocol.references=, leave the concept out with grid.concepts=, or choose other metrics=[...]"
                )


@dataclass(frozen=True, kw_only=True)
class EmbeddingMetric(ReferenceMetric):
    """A reference metric that compares embeddings.

    Attributes:
        encoder: image encoder, with its checkpoint's own preprocessing.
    """

    encoder: EncoderSpec

    def embed(self, items: Sequence[ScoreItem]) -> list[tuple[Tensor, Tensor]]:
        """Return unit-norm embeddings of each image (dim,) and of its references (references, dim)."""
        import torch

        references = [item.compared(self, self.references) for item in items]
        encoder: ImageEncoder = self.encoder.load()
        found = encoder.embed_files(
            [file for item, files in zip(items, references, strict=True) for file in (item.image, *files)]
        )
        return [
            (found[item.image], torch.stack([found[file] for file in files]))
            for item, files in zip(items, references, strict=True)
        ]

    def weights(self) -> Mapping[str, str]:
        return self.encoder.weights()


@dataclass(frozen=True, kw_only=True)
class ImageSimilarity(EmbeddingMetric):
    """Cosine of the image's embedding with the references' embeddings, by `paired_cosine`.

    Attributes:
        pairing: how several references are combined.
        scale: the factor on the cosine: 100 as in DreamBench++'s code, 1 elsewhere.
    """

    pairing: ReferencePairing = ReferencePairing.all
    scale: float = 1.0

    @property
    def bounds(self) -> Bounds:
        return cosine_bounds(self.scale)

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        return [
            finite_score(self, item, self.scale * paired_cosine(image, references, self.pairing))
            for item, (image, references) in zip(items, self.embed(items), strict=True)
        ]
