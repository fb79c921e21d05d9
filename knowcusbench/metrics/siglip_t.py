"""SigLIP-T: similarity of an image to its prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.benchmark.types import Task
from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.metrics.cosine import text_scores
from knowcusbench.metrics.siglip import SiglipSpec


@dataclass(frozen=True, kw_only=True)
class SiglipT(Metric):
    """SigLIP cosine of the image with its text, -1 to 1.

    The text is the prompt with the class noun in the place of the concept, cut to the context length if it is longer
    (the score's note says so). The model's own probability that image and text belong together is
    `sigmoid(exp(logit_scale) * cosine + logit_bias)`: it orders images as the cosine does, but saturates, so that few
    images make its mean.

    Attributes:
        encoder: the SigLIP whose two towers are used.
    """

    name: ClassVar[str] = "siglip_t"
    title: ClassVar[str] = "SigLIP-T"
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.GENERATION})

    encoder: SiglipSpec

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        return text_scores(self, self.encoder.load(), items, scale=1.0)

    def weights(self) -> Mapping[str, str]:
        return self.encoder.weights()
