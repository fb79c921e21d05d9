"""Masks that are kept: the very ones that scores were computed with, to be looked at beside their images."""

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from knowcusbench.encoders.segmenters.base import Mask, SegmenterSpec
from knowcusbench.storage.files import names_in, write_atomic
from knowcusbench.storage.images import read_image
from knowcusbench.storage.versions import settings


def mask_name(digest: str, class_noun: str) -> str:
    """The file of the mask of what a class noun names, in an image of which the first 16 digits of the digest count."""
    return f"{digest[:16]}-{_short(class_noun)[:8]}.png"


@dataclass(frozen=True)
class MaskStore:
    """Masks of a segmenter by image content and class noun, in a directory that any number of processes may add to. A
    mask is a 1-bit PNG file, white on the subject, that appears whole or not at all.

    Attributes:
        root: the directory of all segmenters, in that of the embeddings.
    """

    root: Path
    segmenter: SegmenterSpec

    @cached_property
    def directory(self) -> Path:
        """Raises WeightsError if the segmenter's weights can't be had."""
        return self.root / f"{self._settings}-{_short(self.segmenter.key)}"

    @cached_property
    def _settings(self) -> str:
        return _short(json.dumps(settings(self.segmenter)))

    def keep(self, digest: str, class_noun: str, mask: Mask) -> None:
        """Keep the mask of an image, by the digest of the image's file."""
        path = self.directory / mask_name(digest, class_noun)
        if not path.exists():
            buffer = io.BytesIO()
            Image.fromarray(mask).save(buffer, format="PNG")
            write_atomic(path, buffer.getvalue())

    def names(self) -> frozenset[str]:
        """The names of all masks that are there, as by `mask_name`."""
        # Weights may be large and elsewhere: they are looked for only where such a segmenter has been at work.
        if not any(name.startswith(self._settings) for name in names_in(self.root)):
            return frozenset()
        return frozenset(names_in(self.directory))


def read_mask(path: Path) -> Mask:
    """A mask that was kept. Raises ImageError if it can't be read."""
    return np.asarray(read_image(path))[..., 0] > 0


@lru_cache
def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
