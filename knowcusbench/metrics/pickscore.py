"""PickScore: human preference predicted from image and prompt."""

import math
from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.metrics.bounds import UNBOUNDED, Bounds
from knowcusbench.metrics.text_similarity import TextSimilarity


@dataclass(frozen=True, kw_only=True)
class PickScore(TextSimilarity):
    """`exp(logit_scale) * <image, text>` with PickScore's CLIP-H (arXiv 2305.01569), about 20 for its checkpoint."""

    name: ClassVar[str] = "pickscore"
    title: ClassVar[str] = "PickScore"

    encoder: TransformersClipSpec

    @property
    def bounds(self) -> Bounds:
        # The cosine's bounds are too wide to be of use, and computing them would load the weights for the factor.
        return UNBOUNDED

    @property
    def decimals(self) -> int:
        return 2

    def factor(self) -> float:
        return math.exp(self.encoder.load().logit_scale)
