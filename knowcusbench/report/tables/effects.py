"""The files of the effects: the table in every format, and the confusion matrices."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from knowcusbench.analysis.effects import EffectsInput, build_effects, confusions
from knowcusbench.analysis.types import Leaderboard
from knowcusbench.report.figures.fonts import composed, picture_font
from knowcusbench.report.tables.tables import write_report
from knowcusbench.storage.files import write_atomic

CELL = 44
"""Side of a cell of the picture, in pixels."""

MARGIN = 8
TEXT = 13


def write_effects(directory: Path, inputs: EffectsInput) -> Leaderboard:
    """Write `effects.*`, and `confusion-<label>.csv` and `.png` of every method with pictures, to `directory`."""
    board = build_effects(inputs)
    write_report(directory, board, "effects")
    for label, matrices in confusions(inputs).items():
        write_atomic(directory / f"confusion-{label}.csv", render_confusion_csv(matrices).encode())
        buffer = io.BytesIO()
        confusion_picture(matrices).save(buffer, format="PNG")
        write_atomic(directory / f"confusion-{label}.png", buffer.getvalue())
    return board


def render_confusion_csv(matrices: Mapping[str, pd.DataFrame]) -> str:
    """Return columns applied, concept (the requested one), then the number of pictures nearest to each concept."""
    parts = [
        matrix.rename_axis(index="concept", columns=None).reset_index().assign(applied=applied)
        for applied, matrix in matrices.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    order = ["applied", *(column for column in table.columns if column != "applied")]
    return table[order].to_csv(index=False, lineterminator="\n")


def confusion_picture(matrices: Mapping[str, pd.DataFrame]) -> Image.Image:
    """Draw the matrices side by side: a row per requested concept, a column per nearest one, in the same order.

    Cells are darker the larger their share of the row's pictures.
    """
    concepts = [composed(str(name)) for name in next(iter(matrices.values())).index]
    font = picture_font("".join([*concepts, *map(composed, matrices)]), TEXT)
    names = int(max(font.getlength(name) for name in concepts)) + 2 * MARGIN
    side = CELL * len(concepts)
    width = names + len(matrices) * (side + MARGIN)
    picture = Image.new("RGB", (width, TEXT + 2 * MARGIN + side + MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    top = TEXT + 2 * MARGIN
    for row, name in enumerate(concepts):
        pen.text((MARGIN, top + row * CELL + CELL // 2), name, fill="black", font=font, anchor="lm")
    for place, (applied, matrix) in enumerate(matrices.items()):
        left = names + place * (side + MARGIN)
        pen.text((left, MARGIN), composed(applied), fill="black", font=font)
        found = matrix.to_numpy()
        shares = found / found.sum(axis=1, keepdims=True).clip(min=1)
        for (row, column), share in np.ndenumerate(shares):
            corner = (left + column * CELL, top + row * CELL)
            grey = round(255 * (1 - float(share)))
            box = (*corner, corner[0] + CELL - 2, corner[1] + CELL - 2)
            pen.rectangle(box, fill=(grey, grey, 255), outline="lightgrey")
            middle = (corner[0] + CELL // 2, corner[1] + CELL // 2)
            pen.text(
                middle, str(found[row, column]), fill="white" if share > 1 / 2 else "black", font=font, anchor="mm"
            )
    return picture
