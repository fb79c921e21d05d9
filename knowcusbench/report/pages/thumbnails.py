"""Pictures for the gallery: a small one for the overview, a large one for inspection, made once for each image."""

import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from knowcusbench.errors import ImageError
from knowcusbench.machine.progress import Progress
from knowcusbench.storage.files import modified_in, remove, write_atomic
from knowcusbench.storage.images import read_image

SMALL = 192
"""Longest side of the small picture. A smaller image is enlarged by a whole factor, so that its pixels stay square."""

LARGE = 1024
"""Longest side of the large picture; an image that fits into the small one has none."""

QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """An image file, and the path of its pictures without their suffixes."""

    source: Path
    target: Path

    @property
    def small(self) -> Path:
        return self.target.with_name(f"{self.target.name}.webp")

    @property
    def large(self) -> Path:
        return self.target.with_name(f"{self.target.name}.large.webp")


def outdated(pictures: Sequence[Picture]) -> list[Picture]:
    """Return the pictures that are missing or older than their image. All share one source and one target directory."""
    if not pictures:
        return []
    written, made = modified_in(pictures[0].source.parent), modified_in(pictures[0].target.parent)
    return [one for one in pictures if made.get(one.small.name, 0.0) < written.get(one.source.name, math.inf)]


def write_pictures(pictures: Sequence[Picture]) -> list[str]:
    """Make both sizes of these pictures, and return the errors of unreadable images, which have none."""
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        Progress("report, gallery", len(pictures), unit="image") as progress,
    ):
        faults = []
        for fault in pool.map(_write, pictures):
            progress.update()
            if fault:
                faults.append(fault)
    return faults


def _write(picture: Picture) -> str:
    """Return an error's message, or nothing."""
    try:
        image = read_image(picture.source)
    except ImageError as error:
        remove(picture.small)
        remove(picture.large)
        return str(error)
    if max(image.size) > SMALL:
        write_atomic(picture.large, _webp(_within(image, LARGE)))
    else:
        remove(picture.large)
    # Written last: it marks both as complete.
    write_atomic(picture.small, _webp(_within(image, SMALL)))
    return ""


def _within(image: Image.Image, side: int) -> Image.Image:
    longest = max(image.size)
    if longest > side:
        return ImageOps.contain(image, (side, side), Image.Resampling.LANCZOS)
    if side == SMALL and longest * 2 <= side:
        return ImageOps.scale(image, side // longest, Image.Resampling.NEAREST)
    return image


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY, method=2)
    return buffer.getvalue()
