"""The leaderboard as a LaTeX table to `\\input`, rendered from `templates/leaderboard.tex.jinja`."""

import re
from collections.abc import Sequence
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from knowcusbench.report.columns import number
from knowcusbench.report.footnotes import dagger, footnotes
from knowcusbench.report.types import Cell, Column, Leaderboard, Mark

SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "–": r"\textendash{}",
        "≈": r"$\approx$",
        "†": r"$^{\dagger}$",
        "ρ": r"$\rho$",
        "τ": r"$\tau$",
        "“": "``",
        "”": "''",
        '"': "''",
        **{character: f"\\{character}" for character in "{}$&#%_"},
        # In braces quotes do not join into ligatures, and the others are no argument of `\\` or `\midrule`.
        **{character: f"{{{character}}}" for character in "`'[]*"},
    }
)


def escape_latex(text: str) -> str:
    """`text` so that LaTeX prints it as it is, in one line and in any font encoding."""
    escaped = " ".join(text.split()).translate(SPECIAL)
    return re.sub(r"-(?=-)", "-{}", escaped)


def render_latex(board: Leaderboard) -> str:
    """A `tabular` with the best in bold and the second underlined, and its footnotes; needs `booktabs`."""
    template = environment().get_template("leaderboard.tex.jinja")
    return template.render(
        board=board,
        groups=_groups(board.columns),
        sections=[list(rows) for _, rows in groupby(board.rows, key=lambda row: row.kind)],
        cells=lambda row: [_cell(column, cell) for column, cell in zip(board.columns, row.cells, strict=True)],
        footnotes=footnotes(board),
    )


def environment() -> Environment:
    """Jinja2 with delimiters that mean nothing to LaTeX."""
    made = Environment(
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        loader=PackageLoader("knowcusbench.report"),
    )
    made.filters["tex"] = escape_latex
    made.filters["comment"] = lambda text: " ".join(text.split())
    return made


def _groups(columns: Sequence[Column]) -> list[tuple[str, int, int]]:
    """Heading, first and last column (the labels' column is number 1) of neighbours with one heading."""
    spans = []
    first = 2
    for heading, members in groupby(columns, key=lambda column: column.group):
        last = first + len(list(members)) - 1
        spans.append((heading, first, last))
        first = last + 1
    return spans


def _cell(column: Column, cell: Cell) -> str:
    shown = escape_latex(number(column, cell)).replace("-", "$-$")
    if cell.mark is Mark.BEST:
        shown = rf"\textbf{{{shown}}}"
    elif cell.mark is Mark.SECOND:
        shown = rf"\underline{{{shown}}}"
    return shown + escape_latex(dagger(cell))
