"""A store of the masks that scores were computed with, to be inspected with their images."""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from knowcusbench.encoders.segmenters.base import Mask, SegmenterSpec
from knowcusbench.storage.digests import json_digest, text_digest
from knowcusbench.storage.files import names_in, write_atomic
from knowcusbench.storage.images import read_image
from knowcusbench.storage.versions import settings


def mask_name(digest: str, class_noun: str) -> str:
    """Return the file name of an image's mask, from the image's digest (its first 16 digits count) and the class
    noun."""
    return f"{digest[:16]}-{text_digest(class_noun, 8)}.png"


@dataclass(frozen=True)
class MaskStore:
    """Masks of a segmenter by image content and class noun, in a directory that any number of processes may add to.

    A mask is a 1-bit PNG file, white on the subject, written atomically.

    Attributes:
        root: the directory of all segmenters' masks, inside the embeddings' directory.
    """

    root: Path
    segmenter: SegmenterSpec

    @cached_property
    def directory(self) -> Path:
        """Directory of this segmenter's masks. Raises WeightsError if the segmenter's weights are unavailable."""
        return self.root / f"{self._settings}-{text_digest(self.segmenter.key, 16)}"

    @cached_property
    def _settings(self) -> str:
        return json_digest(settings(self.segmenter), 16)

    def keep(self, digest: str, class_noun: str, mask: Mask) -> None:
        """Store the mask of an image under the digest of the image's file."""
        path = self.directory / mask_name(digest, class_noun)
        if not path.exists():
            buffer = io.BytesIO()
            Image.fromarray(mask).save(buffer, format="PNG")
            write_atomic(path, buffer.getvalue())

    def names(self) -> frozenset[str]:
        """Return the file names of all stored masks, as given by `mask_name`."""
        # The weights may be large and remote, so they are looked up only if this segmenter has stored masks.
        if not any(name.startswith(self._settings) for name in names_in(self.root)):
            return frozenset()
        return frozenset(names_in(self.directory))


def read_mask(path: Path) -> Mask:
    """Read a stored mask. Raises ImageError if it can't be read."""
    return np.asarray(read_image(path))[..., 0] > 0
