"""Pictures side by side for print: a row per concept, a column per method and for the references."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from knowcusbench.report.figures.pictures import PictureRow
from knowcusbench.report.figures.style import styled
from knowcusbench.storage.images import read_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.0
"""Width of the figure, in inches: the text width of a page."""

FONT, LINE, GAP = 7, 0.14, 0.04
"""Font size in points; height of a text line and gap between pictures in inches."""

CHARACTER = 0.055
"""Width of an average character, in inches."""

PIXELS_PER_INCH = 600
"""Highest resolution stored: print shows no more."""


@styled()
def picture_figure(columns: Sequence[str], rows: Sequence[PictureRow]) -> Figure:
    """Plot all rows below the columns' names; a missing picture is left blank.

    Raises ImageError for a file that can't be read.
    """
    from matplotlib.figure import Figure

    side = (WIDTH - GAP) / len(columns) - GAP
    heads = [textwrap.wrap(name, max(4, int(side / CHARACTER)), max_lines=2, placeholder="…") for name in columns]
    head = LINE * max(map(len, heads), default=1) + GAP
    height = head + len(rows) * (LINE + side + 2 * GAP) + GAP
    figure = Figure(figsize=(WIDTH, height))
    # One set of axes, in inches from the top left corner.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    lefts = [GAP + number * (side + GAP) for number in range(len(columns))]
    for left, lines in zip(lefts, heads, strict=True):
        axes.text(left + side / 2, head, "\n".join(lines), fontsize=FONT, ha="center", va="bottom")
    top = head + GAP
    for row in rows:
        text = textwrap.shorten(row.text, int(WIDTH / CHARACTER), placeholder=" …")
        axes.text(GAP, top + LINE / 2, text, fontsize=FONT, color="dimgrey", va="center")
        top += LINE
        for left, path in zip(lefts, row.pictures, strict=True):
            if path:
                image = read_image(path)
                image.thumbnail((side * PIXELS_PER_INCH,) * 2, Image.Resampling.LANCZOS)
                across, down = (side * edge / max(image.size) for edge in image.size)
                x, y = left + (side - across) / 2, top + (side - down) / 2
                axes.imshow(np.asarray(image), extent=(x, x + across, y + down, y), interpolation="none")
        top += side + 2 * GAP
    axes.set(xlim=(0, WIDTH), ylim=(height, 0), aspect="auto")
    return figure
