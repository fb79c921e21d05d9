"""The contract of segmenters, and the fallback for a subject that is not found."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knowcusbench.storage.versions import settings

Mask = NDArray[np.bool_]
"""Boolean array (height, width), true on the subject."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels, right and bottom exclusive."""


class Fallback(IntEnum):
    """Reason why a mask is the whole image."""

    NONE = 0
    NO_BOX = 1
    EMPTY_MASK = 2

    def note(self, class_noun: str) -> str:
        """Return the reason in words; empty for `NONE`."""
        return {
            Fallback.NONE: "",
            Fallback.NO_BOX: f"whole image: no box found for {class_noun!r}",
            Fallback.EMPTY_MASK: "whole image: the mask is empty",
        }[self]


@dataclass(frozen=True)
class Segmentation:
    """The subject's region of an image.

    Attributes:
        mask: true on the subject; never empty.
        fallback: why the mask is the whole image, if the subject was not found.
    """

    mask: Mask
    fallback: Fallback = Fallback.NONE


class BoxFinder(Protocol):
    """Finds the box of a subject."""

    def find(self, images: Sequence[Image.Image], class_noun: str) -> list[Box | None]:
        """Return, for every RGB image, the box of the thing that `class_noun` names, or None if there is none."""


class BoxSpec(ABC):
    """A box finder's configuration: a frozen keyword-only dataclass.

    Attributes:
        version: raised by the author when the same settings and weights give other boxes.
    """

    version: ClassVar[int] = 1

    @abstractmethod
    def load(self) -> BoxFinder:
        """Return this process's box finder. Raises WeightsError if it can't be loaded."""

    def weights(self) -> Mapping[str, str]:
        """Return its weights' version by source, as in `Metric.weights`."""
        return {}


class MaskPredictor(Protocol):
    """Turns boxes into masks."""

    def predict(self, images: Sequence[Image.Image], boxes: Sequence[Box]) -> list[Mask]:
        """Return, for every RGB image, a mask of the image's size of the thing in its box; it may be empty."""


class Segmenter:
    """A resident segmenter: finds a box for the class noun, then a mask for the box.

    Without a box, or with an empty mask, the mask is the whole image and the segmentation says so: the score then
    counts background, which a reader of the table has to know.
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
            _whole_image(image, Fallback.NO_BOX) if box is None else _not_empty(image, next(masks))
            for image, box in zip(images, boxes, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class SegmenterSpec(ABC):
    """A segmenter's configuration: a frozen keyword-only dataclass that adds its own fields.

    Attributes:
        boxes: finds the box that prompts the segmenter.
        version: raised by the author when the same settings and weights give other masks.
    """

    version: ClassVar[int] = 1

    boxes: BoxSpec

    def load(self) -> Segmenter:
        """Return this process's segmenter for this specification. Raises WeightsError if it can't be loaded."""
        return _load(self)

    @abstractmethod
    def predictor(self) -> MaskPredictor:
        """Load the model that turns boxes into masks."""

    @abstractmethod
    def weights(self) -> Mapping[str, str]:
        """Return the version of all weights by source, the box finder's included, as in `Metric.weights`."""

    @cached_property
    def key(self) -> str:
        """Everything that determines a mask: classes and their versions, settings and weights."""
        return json.dumps([settings(self), sorted(self.weights().items())])


@cache
def _load(spec: SegmenterSpec) -> Segmenter:
    return Segmenter(spec.boxes.load(), spec.predictor())


def _whole_image(image: Image.Image, fallback: Fallback) -> Segmentation:
    return Segmentation(np.ones((image.height, image.width), dtype=np.bool_), fallback)


def _not_empty(image: Image.Image, mask: Mask) -> Segmentation:
    return Segmentation(mask) if mask.any() else _whole_image(image, Fallback.EMPTY_MASK)
