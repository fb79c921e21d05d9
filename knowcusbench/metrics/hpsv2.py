"""HPSv2: what people would prefer, as predicted from image and prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.benchmark.types import Task
from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.metrics.cosine import text_scores
from knowcusbench.metrics.hps import HpsSpec


@dataclass(frozen=True, kw_only=True)
class HpsV2(Metric):
    """HPSv2 v2.0 (arXiv 2306.09341): the cosine of image and text, without the model's logit scale; about 0.27.

    The text is the prompt with the class noun in the place of the concept, cut to the context length if it is longer
    (the score's note says so). Images of different prompts, and v2.0 and v2.1, can't be compared.

    Attributes:
        encoder: the preference model.
        scale: the factor on the cosine: 1 as `hpsv2.score` has it, 100 as in the authors' benchmark.
    """

    name: ClassVar[str] = "hpsv2"
    title: ClassVar[str] = "HPSv2"
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.GENERATION})

    encoder: HpsSpec
    scale: float = 1.0

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        return text_scores(self, self.encoder.load(), items, self.scale)

    def weights(self) -> Mapping[str, str]:
        return self.encoder.weights()


@dataclass(frozen=True, kw_only=True)
class HpsV21(HpsV2):
    """HPSv2 v2.1: the same formula, trained on better data; values spread wider than those of v2.0."""

    name: ClassVar[str] = "hpsv21"
    title: ClassVar[str] = "HPSv2.1"
