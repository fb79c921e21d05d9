"""Finding the subject in an image: the contract of segmenters, and what happens when they find nothing."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.bool_]
"""(height, width), true where the subject is."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels, right and bottom exclusive."""


@dataclass(frozen=True)
class Segmentation:
    """Where the subject is in an image.

    Attributes:
        mask: true on the subject; never empty.
        note: why the mask is the whole image, where the subject was not found; empty otherwise.
    """

    mask: Mask
    note: str = ""


class BoxFinder(Protocol):
    """Finds the box of a subject."""

    def find(self, images: Sequence[Image.Image], class_noun: str) -> list[Box | None]:
        """For every RGB image the box of the thing that `class_noun` names, or None if there is none."""


class BoxSpec(ABC):
    """A box finder's configuration: a frozen keyword-only dataclass."""

    @abstractmethod
    def load(self) -> BoxFinder:
        """The box finder of this process. Raises WeightsError if it can't be loaded."""

    def weights(self) -> Mapping[str, str]:
        """The versions of its weights, as in `Metric.weights`."""
        return {}


class MaskPredictor(Protocol):
    """Turns boxes into masks."""

    def predict(self, images: Sequence[Image.Image], boxes: Sequence[Box]) -> list[Mask]:
        """For every RGB image the mask of what its box encloses, of the image's size; may be empty."""


class Segmenter:
    """A resident segmenter: a box is found for the class noun, then a mask for the box.

    Where there is no box or the mask is empty, the mask is the whole image and the segmentation says so:
    the score then counts background, which a reader of the table has to know.
    """

    def __init__(self, boxes: BoxFinder, masks: MaskPredictor) -> None:
        self._boxes = boxes
        self._masks = masks

    def segment(self, images: Sequence[Image.Image], class_noun: str) -> list[Segmentation]:
        """Segment the thing that `class_noun` names in every RGB image."""
        boxes = self._boxes.find(images, class_noun)
        found = [(image, box) for image, box in zip(images, boxes, strict=True) if box is not None]
        masks = iter(self._masks.predict([image for image, _ in found], [box for _, box in found]))
        return [
            _whole_image(image, f"whole image: no box found for {class_noun!r}")
            if box is None
            else _not_empty(image, next(masks))
            for image, box in zip(images, boxes, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class SegmenterSpec(ABC):
    """A segmenter's configuration: a frozen keyword-only dataclass that adds its own fields.

    Attributes:
        boxes: what finds the box that prompts it.
    """

    boxes: BoxSpec

    def load(self) -> Segmenter:
        """The segmenter of this process for this specification. Raises WeightsError if it can't be loaded."""
        return _load(self)

    @abstractmethod
    def predictor(self) -> MaskPredictor:
        """Load the model that turns boxes into masks."""

    @abstractmethod
    def weights(self) -> Mapping[str, str]:
        """The versions of all its weights, those of the box finder included, as in `Metric.weights`."""


@cache
def _load(spec: SegmenterSpec) -> Segmenter:
    return Segmenter(spec.boxes.load(), spec.predictor())


def _whole_image(image: Image.Image, note: str) -> Segmentation:
    return Segmentation(np.ones((image.height, image.width), dtype=np.bool_), note)


def _not_empty(image: Image.Image, mask: Mask) -> Segmentation:
    return Segmentation(mask) if mask.any() else _whole_image(image, "whole image: the mask is empty")


def cut_out(image: Image.Image, mask: Mask, background: tuple[int, int, int], crop: bool) -> Image.Image:
    """The RGB image with everything outside the mask in one colour.

    Args:
        image: RGB, of the mask's size.
        mask: (height, width), with at least one true pixel.
        background: the colour, 0 to 255 a channel.
        crop: whether to keep only the bounding box of the mask.
    """
    pixels = np.where(mask[..., None], np.asarray(image), np.array(background, dtype=np.uint8))
    if crop:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.fromarray(pixels)
