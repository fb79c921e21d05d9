"""HPSv2: human preference predicted from image and prompt."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.encoders.hps import HpsSpec
from knowcusbench.metrics.text_similarity import TextSimilarity


@dataclass(frozen=True, kw_only=True)
class HpsV2(TextSimilarity):
    """HPSv2 v2.0 (arXiv 2306.09341): the cosine of image and text, without the model's logit scale; about 0.27.

    Scores of different prompts are not comparable, nor are those of v2.0 and v2.1.

    Attributes:
        scale: the factor on the cosine: 1 as in `hpsv2.score`, 100 as in the authors' benchmark.
    """

    name: ClassVar[str] = "hpsv2"
    title: ClassVar[str] = "HPSv2"

    encoder: HpsSpec
    scale: float = 1.0

    def factor(self) -> float:
        return self.scale


@dataclass(frozen=True, kw_only=True)
class HpsV21(HpsV2):
    """HPSv2 v2.1: the same formula, trained on better data; values spread wider than those of v2.0."""

    name: ClassVar[str] = "hpsv21"
    title: ClassVar[str] = "HPSv2.1"
