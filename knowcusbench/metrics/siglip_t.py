"""SigLIP-T: similarity of an image to its prompt."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.encoders.siglip import SiglipSpec
from knowcusbench.metrics.text_similarity import TextSimilarity


@dataclass(frozen=True, kw_only=True)
class SiglipT(TextSimilarity):
    """SigLIP cosine of the image with its text, -1 to 1.

    The model's own probability that image and text belong together is `sigmoid(exp(logit_scale) * cosine +
    logit_bias)`. It orders images as the cosine does, but saturates: a few images then dominate its mean.
    """

    name: ClassVar[str] = "siglip_t"
    title: ClassVar[str] = "SigLIP-T"

    encoder: SiglipSpec

    def factor(self) -> float:
        return 1.0
