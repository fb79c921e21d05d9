"""DINO-I: similarity of an image to the concept's reference images, by features that tell subjects of a class apart."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.encoders.dino import DinoSpec
from knowcusbench.metrics.image_similarity import ImageSimilarity


@dataclass(frozen=True, kw_only=True)
class DinoI(ImageSimilarity):
    """DINO cosine of the image with the concept's reference images.

    DreamBooth's "DINO" (arXiv 2208.12242, section 4.1) is this with ViT-S/16.
    """

    name: ClassVar[str] = "dino_i"
    title: ClassVar[str] = "DINO-I"

    encoder: DinoSpec


@dataclass(frozen=True, kw_only=True)
class DinoV2I(DinoI):
    """DINOv2 cosine of the image with the concept's reference images.

    DreamBench++ (arXiv 2406.16855) uses it with one reference image.
    """

    name: ClassVar[str] = "dinov2_i"
    title: ClassVar[str] = "DINOv2-I"
