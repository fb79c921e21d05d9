"""HPSv2: what people would prefer, as predicted from image and prompt."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.encoders.hps import HpsSpec
from knowcusbench.metrics.text_similarity import TextSimilarity


@dataclass(frozen=True, kw_only=True)
class HpsV2(TextSimilarity):
    """HPSv2 v2.0 (arXiv 2306.09341): the cosine of image and text, without the model's logit scale; about 0.27.

    Images of different prompts, and v2.0 and v2.1, can't be compared.

    Attributes:
        scale: the factor on the cosine: 1 as `hpsv2.score` has it, 100 as in the authors' benchmark.
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
