"""Pictures side by side: references and each method's images, for visual comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from knowcusbench.report.figures.fonts import Font, composed, picture_font
from knowcusbench.storage.images import read_image

SIDE = 160
"""Side of a picture, in pixels. Smaller ones are enlarged by whole factors only, so that their pixels stay square."""

GAP = 8
TEXT = 15


@dataclass(frozen=True)
class PictureRow:
    """A line of text, and below it one picture per column (None for a missing one)."""

    text: str
    pictures: Sequence[Path | None]


def picture_grid(columns: Sequence[str], rows: Sequence[PictureRow]) -> Image.Image:
    """Draw all rows below the columns' names, as an RGB picture. Raises ImageError for a file that can't be read."""
    line = TEXT + GAP
    width = GAP + len(columns) * (SIDE + GAP)
    grid = Image.new("RGB", (width, line + GAP + len(rows) * (line + SIDE + GAP)), "white")
    pen = ImageDraw.Draw(grid)
    for number, name in enumerate(columns):
        _write(pen, (GAP + number * (SIDE + GAP), GAP), name, SIDE, "black")
    top = line + GAP
    for row in rows:
        _write(pen, (GAP, top), row.text, width - 2 * GAP, "dimgrey")
        top += line
        for number, path in enumerate(row.pictures):
            if path:
                grid.paste(_fitted(read_image(path)), (GAP + number * (SIDE + GAP), top))
        top += SIDE + GAP
    return grid


def _write(pen: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width: float, colour: str) -> None:
    text = composed(text)
    font = picture_font(text, TEXT)
    pen.text(corner, shortened(text, font, width), fill=colour, font=font)


def shortened(text: str, font: Font, width: float) -> str:
    """Return the text, shortened with an ellipsis if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    fitting = (text[:end].rstrip() + "..." for end in range(len(text), 0, -1))
    return next((cut for cut in fitting if font.getlength(cut) <= width), "")


def _fitted(image: Image.Image) -> Image.Image:
    factor = SIDE // max(image.size)
    if factor < 1:
        return ImageOps.pad(image, (SIDE, SIDE), color="white")
    enlarged = ImageOps.scale(image, factor, Image.Resampling.NEAREST)
    left, top = (SIDE - enlarged.width) // 2, (SIDE - enlarged.height) // 2
    return ImageOps.expand(enlarged, (left, top, SIDE - enlarged.width - left, SIDE - enlarged.height - top), "white")
