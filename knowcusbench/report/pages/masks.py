"""Masks for the gallery: overlays that darken the part of an image that a metric ignored."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from knowcusbench.encoders.segmenters.base import Mask
from knowcusbench.encoders.segmenters.mask_store import read_mask
from knowcusbench.errors import ImageError
from knowcusbench.machine.progress import Progress
from knowcusbench.report.pages.environment import file_name
from knowcusbench.report.pages.thumbnails import LARGE
from knowcusbench.report.pages.types import MaskLayer
from knowcusbench.storage.files import modified_in, names_in, write_atomic

SUBJECT, AROUND, LINE = range(3)

PALETTE = bytes([0, 0, 0, 12, 14, 18, 255, 46, 151])
"""Red, green and blue of the three classes."""

OPACITY = bytes([0, 170, 255])

WIDTH = 3
"""Width of the line along the subject's edge, in pixels of the overlay."""


class MaskFolder:
    """The overlays of a layer's masks, under the gallery's `root`."""

    def __init__(self, layer: MaskLayer, root: Path) -> None:
        self.layer = layer
        self.folder = f"masks/{file_name(layer.metric)}"
        self._place = root / self.folder

    def write(self) -> None:
        """Draw the overlays that are missing or older than their mask. Existing ones stay, also with another cache."""
        if self.layer.directory:
            kept, made = modified_in(self.layer.directory), modified_in(self._place)
            scored = (mask.name for masks in self.layer.scored.values() for mask in masks.values())
            wanted = {*scored, *self.layer.references.values()} & self.layer.names
            outdated = sorted(name for name in wanted if made.get(name, 0.0) < kept.get(name, 0.0))
            write_overlays([self.layer.directory / name for name in outdated], self._place)

    @cached_property
    def _there(self) -> frozenset[str]:
        return frozenset(names_in(self._place))

    def of_sample(self, label: str, sample: str) -> list[str | float | None] | None:
        """Return name ("" without an overlay), coverage in percent, and note. None for a sample without a score."""
        mask = self.layer.scored.get(label, {}).get(sample)
        return mask and self._entry(*mask)

    def of_reference(self, file: Path) -> list[str | float | None] | None:
        """Return the same for a reference; None without an overlay."""
        name = self.layer.references.get(file, "")
        if name not in self._there:
            return None
        with Image.open(io.BytesIO((self._place / name).read_bytes())) as picture:
            return self._entry(name, float((np.asarray(picture) != AROUND).mean()), "")

    def _entry(self, name: str, coverage: float | None, note: str) -> list[str | float | None]:
        shown = name if name in self._there else ""
        return [shown, None if coverage is None else round(100 * coverage, 1), note]

    @property
    def counts(self) -> tuple[int, int]:
        """Number of scored samples with an overlay, and number of scored samples."""
        names = [mask.name for masks in self.layer.scored.values() for mask in masks.values()]
        return sum(name in self._there for name in names), len(names)


def write_overlays(sources: Sequence[Path], directory: Path) -> None:
    """Draw the overlay of each mask file, under the same name in `directory`. Unreadable masks are skipped."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        work = pool.map(lambda source: _write(source, directory / source.name), sources)
        with Progress("report, masks", len(sources), unit="image") as progress:
            for _ in work:
                progress.update()


def _write(source: Path, target: Path) -> None:
    try:
        mask = read_mask(source)
    except ImageError:
        return
    buffer = io.BytesIO()
    picture = Image.fromarray(overlay(_scaled(mask)))
    picture.putpalette(PALETTE)
    picture.save(buffer, format="PNG", transparency=OPACITY, bits=2)
    write_atomic(target, buffer.getvalue())


def overlay(mask: Mask) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Classify each pixel of a mask (height, width): `SUBJECT`, `AROUND` it, or on the `LINE` between.

    The line is those pixels of the mask that are less than `WIDTH` from a pixel outside it, up, down, left or right.
    """
    height, width = mask.shape
    wide = np.pad(mask, WIDTH, mode="edge")
    inner = mask.copy()
    for by in range(1, WIDTH + 1):
        rows, columns = slice(WIDTH, WIDTH + height), slice(WIDTH, WIDTH + width)
        for shift in (-by, by):
            inner &= wide[WIDTH + shift : WIDTH + shift + height, columns]
            inner &= wide[rows, WIDTH + shift : WIDTH + shift + width]
    return np.where(mask, np.where(inner, SUBJECT, LINE), AROUND).astype(np.uint8)


def _scaled(mask: Mask) -> Mask:
    """Scale a mask to the gallery's large pictures; a small one by a whole factor, for a fine line."""
    longest = max(mask.shape)
    if longest <= LARGE // 2:
        factor = LARGE // 2 // longest
        return mask.repeat(factor, axis=0).repeat(factor, axis=1)
    picture = Image.fromarray(mask)
    picture.thumbnail((LARGE, LARGE), Image.Resampling.NEAREST)
    return np.asarray(picture)
