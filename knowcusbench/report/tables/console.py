"""The leaderboard as aligned text for the terminal."""

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

import pandas as pd

from knowcusbench.analysis.columns import number
from knowcusbench.analysis.footnotes import dagger, footnotes
from knowcusbench.analysis.types import Column, Leaderboard, Mark, Row

WIDTH = 100
"""Line length if the output is not a terminal."""

SIGNS = {Mark.BEST: "*", Mark.SECOND: "+", None: ""}
LEGEND = "Among methods: * best, + second."


def render_console(board: Leaderboard, width: int | None = None) -> str:
    """Return the table and its footnotes in lines of at most `width` characters, by default the terminal's.

    A wider table is shown in blocks below each other, each with the labels: one for each task and one for the costs. A
    task whose columns do not fit has several.
    """
    width = width or terminal_width()
    notes = [textwrap.fill(note, width, subsequent_indent="  ") for note in (LEGEND, *footnotes(board))]
    return "\n".join([*_blocks(board, range(len(board.columns)), width), *notes])


def terminal_width() -> int:
    """Return the line length of standard output."""
    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def _blocks(board: Leaderboard, chosen: Sequence[int], width: int) -> Iterator[str]:
    """Yield the columns with these indices as one table if it fits, else by task, else in halves.

    A block has the rows that have a value in it.
    """
    text = _table(board, chosen)
    if len(chosen) < 2 or max(map(len, text.splitlines())) <= width:
        yield text
        return
    tasks = [list(group) for _, group in groupby(chosen, key=lambda index: board.columns[index].task)]
    middle = (len(chosen) + 1) // 2
    parts = tasks if len(tasks) > 1 else [chosen[:middle], chosen[middle:]]
    for place, part in enumerate(parts):
        if place:
            yield ""
        yield from _blocks(board, part, width)


def _table(board: Leaderboard, chosen: Sequence[int]) -> str:
    whole = len(chosen) == len(board.columns)
    rows = [row for row in board.rows if whole or any(row.cells[index].value is not None for index in chosen)]
    table = pd.DataFrame(
        {(board.columns[i].group, board.columns[i].name): _column(board.columns[i], rows, i) for i in chosen},
        index=[" ".join(row.title.split()) for row in rows],
    )
    return table.to_string()


def _column(column: Column, rows: Sequence[Row], index: int) -> list[str]:
    """Return numbers with their marks, padded so that the decimal points align."""
    cells = [row.cells[index] for row in rows]
    signs = [SIGNS[cell.mark] + dagger(cell) for cell in cells]
    widest = max(map(len, signs))
    return [number(column, cell) + sign.ljust(widest) for cell, sign in zip(cells, signs, strict=True)]
