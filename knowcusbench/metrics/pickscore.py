"""PickScore: what people would prefer, as predicted from image and prompt."""

import math
from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.metrics.clip_transformers import TransformersClipSpec
from knowcusbench.metrics.text_similarity import TextSimilarity


@dataclass(frozen=True, kw_only=True)
class PickScore(TextSimilarity):
    """`exp(logit_scale) * <image, text>` with PickScore's CLIP-H (arXiv 2305.01569), about 20 for its checkpoint."""

    name: ClassVar[str] = "pickscore"
    title: ClassVar[str] = "PickScore"

    encoder: TransformersClipSpec

    def factor(self) -> float:
        return math.exp(self.encoder.load().logit_scale)
