"""Copy detection: is an image closer to a reference than the references are to each other?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.errors import MetricError
from knowcusbench.metrics.base import Score, ScoreItem, finite_score
from knowcusbench.metrics.bounds import SHARE, Bounds
from knowcusbench.metrics.image_similarity import EmbeddingMetric

ROUNDING = 1e-6
"""Tolerance for cosines that should be equal."""


@dataclass(frozen=True, kw_only=True)
class Copies(EmbeddingMetric):
    """Copy detection: 1 if the image's highest cosine with a reference exceeds the highest between two references, else
    0.

    The mean is the share of copies; lower is better. References that are copies of each other (DreamBench's `cat/03`)
    raise the bar. `duplicates` therefore leaves out pairs closer than photographs of one subject ever are. The details
    hold the margin over the bar.

    Attributes:
        duplicates: the cosine from which on two references count as the same image.
    """

    name: ClassVar[str] = "copies"
    title: ClassVar[str] = "Copies"
    higher_is_better: ClassVar[bool] = False
    least_references: ClassVar[int] = 2

    duplicates: float = 0.99

    @property
    def bounds(self) -> Bounds:
        return SHARE

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        import torch

        scores = []
        for item, (image, references) in zip(items, self.embed(items), strict=True):
            compared = references.double()
            between = (compared @ compared.T)[~torch.eye(len(compared), dtype=torch.bool)]
            if not len(between):
                raise MetricError(f"{self.title} of sample {item.sample_id}: one reference image can't set a bar")
            apart = between[between < self.duplicates]
            bar = (apart if len(apart) else between).max()
            margin = float((compared @ image.double()).max() - bar)
            finite_score(self, item, margin)
            scores.append(Score(float(margin > ROUNDING), details={"margin": margin}))
        return scores
