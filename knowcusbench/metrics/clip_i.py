"""CLIP-I: similarity of an image to the concept's reference images."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.metrics.image_similarity import ImageSimilarity


@dataclass(frozen=True, kw_only=True)
class ClipI(ImageSimilarity):
    """CLIP cosine of the image with the reference images of the concept."""

    name: ClassVar[str] = "clip_i"
    title: ClassVar[str] = "CLIP-I"
