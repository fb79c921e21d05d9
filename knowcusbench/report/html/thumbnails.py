"""Pictures for the gallery: a small one to look over, a large one to look at, made once for each image."""

import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps
from tqdm import tqdm

from knowcusbench.errors import ImageError
from knowcusbench.files import write_atomic
from knowcusbench.images import read_image

SMALL = 192
"""Longest side of the small picture. A smaller image is enlarged by a whole factor, so that its pixels stay square."""

LARGE = 1024
"""Longest side of the large picture; an image that fits into the small one has none."""

QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """An image file, and the path of its pictures without their endings."""

    source: Path
    target: Path

    @property
    def small(self) -> Path:
        return self.target.with_name(f"{self.target.name}.webp")

    @property
    def large(self) -> Path:
        return self.target.with_name(f"{self.target.name}.large.webp")


def write_pictures(pictures: Iterable[Picture]) -> list[str]:
    """Make the pictures that are missing or older than their image. Returns what is wrong with images that can't be
    read; they have none."""
    todo = [picture for picture in pictures if _outdated(picture)]
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(todo), desc="gallery", unit="image", disable=None) as progress,
    ):
        faults = []
        for fault in pool.map(_write, todo):
            progress.update()
            if fault:
                faults.append(fault)
    return faults


def _outdated(picture: Picture) -> bool:
    try:
        return picture.small.stat().st_mtime < picture.source.stat().st_mtime
    except FileNotFoundError:
        return True


def _write(picture: Picture) -> str:
    """An error's message, or nothing."""
    try:
        image = read_image(picture.source)
    except ImageError as error:
        picture.small.unlink(missing_ok=True)
        picture.large.unlink(missing_ok=True)
        return str(error)
    if max(image.size) > SMALL:
        write_atomic(picture.large, _webp(_within(image, LARGE)))
    else:
        picture.large.unlink(missing_ok=True)
    # Last: it says that both are there.
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


def names(directory: Path) -> Iterator[str]:
    """The names of the pictures in a directory; none if it is not there."""
    if directory.is_dir():
        yield from (path.name for path in directory.iterdir())
