"""The leaderboard as a Markdown table."""

import re
from collections.abc import Iterable

from knowcusbench.analysis.columns import number
from knowcusbench.analysis.footnotes import dagger, footnotes
from knowcusbench.analysis.types import Cell, Column, Leaderboard, Mark

LEGEND = "Among methods, **best** and <u>second</u>."


def escape_markdown(text: str) -> str:
    r"""Escape `text` so that Markdown shows it verbatim, in one line.

    >>> escape_markdown("naive_db *")
    'naive\\_db \\*'
    """
    return re.sub(r"([\\`*_{}\[\]<>|~#&])", r"\\\1", " ".join(text.split()))


def render_markdown(board: Leaderboard) -> str:
    """Return a table with the best in bold and the second underlined, footnotes and protocol digests below."""
    table = [
        table_line(["Method", *(escape_markdown(column.title) for column in board.columns)]),
        table_line([":--", *("--:" for _ in board.columns)]),
        *(table_line([escape_markdown(row.title), *map(_cell, board.columns, row.cells)]) for row in board.rows),
    ]
    notes = [LEGEND, *map(escape_markdown, footnotes(board))]
    digests = [f"Protocol of {escape_markdown(metric)}: `{digest}`" for metric, digest in board.protocols.items()]
    bullets = [f"- {note}" for note in (*notes, *digests)]
    return "\n".join([f"# {board.title} of {escape_markdown(board.run)}", "", *table, "", *bullets, ""])


def table_line(cells: Iterable[str]) -> str:
    """Return a row of a table.

    >>> table_line(["mokus", "0.764"])
    '| mokus | 0.764 |'
    """
    return f"| {' | '.join(cells)} |"


def _cell(column: Column, cell: Cell) -> str:
    shown = number(column, cell)
    if cell.mark is Mark.BEST:
        shown = f"**{shown}**"
    elif cell.mark is Mark.SECOND:
        shown = f"<u>{shown}</u>"
    return shown + dagger(cell)
