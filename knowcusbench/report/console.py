"""The leaderboard as aligned text for the terminal."""

import textwrap
from collections.abc import Sequence

import pandas as pd

from knowcusbench.report.columns import number
from knowcusbench.report.footnotes import dagger, footnotes
from knowcusbench.report.types import Column, Leaderboard, Mark, Row

WIDTH = 120
SIGNS = {Mark.BEST: "*", Mark.SECOND: "+", None: ""}
LEGEND = "Among methods: * best, + second."


def render_console(board: Leaderboard) -> str:
    """The table and its footnotes in lines of at most 120 characters. Columns that have no room go on in a
    block below, with the labels again."""
    table = pd.DataFrame(
        {(column.group, column.name): _column(column, board.rows, index) for index, column in enumerate(board.columns)},
        index=[" ".join(row.title.split()) for row in board.rows],
    )
    notes = [textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in (LEGEND, *footnotes(board))]
    return "\n".join([table.to_string(line_width=WIDTH), *notes])


def _column(column: Column, rows: Sequence[Row], index: int) -> list[str]:
    """Numbers with their signs; the signs are padded so that the points stand in one line."""
    cells = [row.cells[index] for row in rows]
    signs = [SIGNS[cell.mark] + dagger(cell) for cell in cells]
    widest = max(map(len, signs))
    return [number(column, cell) + sign.ljust(widest) for cell, sign in zip(cells, signs, strict=True)]
