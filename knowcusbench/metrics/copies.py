"""Copy detection: is an image closer to a reference than the references are to each other?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from knowcusbench.errors import MetricError
from knowcusbench.metrics.base import Score, ScoreItem, finite_score
from knowcusbench.metrics.encoders import EncoderSpec, ImageEncoder
from knowcusbench.metrics.image_similarity import ReferenceMetric

ROUNDING = 1e-6
"""By how much cosines that should be equal may differ."""


@dataclass(frozen=True, kw_only=True)
class Copies(ReferenceMetric):
    """1 if the image's highest cosine with a reference is above the highest between two references, else 0: the mean is
    the share of copies. Lower is better.

    References that are copies of each other (DreamBench's `cat/03`) raise the bar, so `duplicates` leaves pairs out
    that are closer than photographs of one subject ever are. The details have the margin over the bar.

    Attributes:
        encoder: what embeds images.
        duplicates: the cosine from which two references are taken for one.
    """

    name: ClassVar[str] = "copies"
    title: ClassVar[str] = "Copies"
    higher_is_better: ClassVar[bool] = False
    least_references: ClassVar[int] = 2

    encoder: EncoderSpec
    duplicates: float = 0.99

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        references = [item.compared(self, self.references) for item in items]
        encoder: ImageEncoder = self.encoder.load()
        embeddings = encoder.embed_files(
            [file for item, files in zip(items, references, strict=True) for file in (item.image, *files)]
        )
        scores = []
        for item, files in zip(items, references, strict=True):
            compared = torch.stack([embeddings[file] for file in files]).double()
            between = (compared @ compared.T)[~torch.eye(len(files), dtype=torch.bool)]
            if not len(between):
                raise MetricError(f"{self.title} of sample {item.sample_id}: one reference image can't set a bar")
            apart = between[between < self.duplicates]
            bar = (apart if len(apart) else between).max()
            margin = float((compared @ embeddings[item.image].double()).max() - bar)
            finite_score(self, item, margin)
            scores.append(Score(float(margin > ROUNDING), details={"margin": margin}))
        return scores

    def weights(self) -> Mapping[str, str]:
        return self.encoder.weights()
