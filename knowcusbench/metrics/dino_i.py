"""DINO-I: similarity of an image to the concept's reference images, by features that tell subjects of a class apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.metrics.cosine import reference_scores
from knowcusbench.metrics.dino import DinoSpec


@dataclass(frozen=True, kw_only=True)
class DinoI(Metric):
    """Mean DINO cosine of the image with every reference image of the concept, as DreamBooth's "DINO" (arXiv
    2208.12242, section 4.1), there with ViT-S/16.

    Attributes:
        encoder: the DINO, with its preprocessing.
    """

    name: ClassVar[str] = "dino_i"
    title: ClassVar[str] = "DINO-I"
    uses_references: ClassVar[bool] = True

    encoder: DinoSpec

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        return reference_scores(self, self.encoder.load(), items)

    def weights(self) -> Mapping[str, str]:
        return self.encoder.weights()


@dataclass(frozen=True, kw_only=True)
class DinoV2I(DinoI):
    """The same with DINOv2, as in DreamBench++ (arXiv 2406.16855), there with one reference image."""

    name: ClassVar[str] = "dinov2_i"
    title: ClassVar[str] = "DINOv2-I"
