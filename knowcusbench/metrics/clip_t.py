"""CLIP-T: similarity of an image to its prompt."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.metrics.text_similarity import TextSimilarity


@dataclass(frozen=True, kw_only=True)
class ClipT(TextSimilarity):
    """CLIP cosine of the image with its text.

    Attributes:
        scale: the factor on the cosine: 1 as in DreamBooth and the paper, 2.5 as in CustomConcept101 (with `clamp`:
            CLIPScore, arXiv 2104.08718), 100 as in DreamBench++.
    """

    name: ClassVar[str] = "clip_t"
    title: ClassVar[str] = "CLIP-T"

    scale: float = 1.0

    def factor(self) -> float:
        return self.scale
