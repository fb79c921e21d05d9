"""The statistics of a run: a page for people, and every number as CSV."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from knowcusbench.analysis.columns import MISSING, number
from knowcusbench.analysis.footnotes import dagger
from knowcusbench.analysis.statistics import Statistics
from knowcusbench.analysis.types import Cell, Column, Leaderboard, RowKind
from knowcusbench.report.tables.markdown import escape_markdown, table_line
from knowcusbench.report.tables.tables import write_csv
from knowcusbench.storage.files import write_atomic

INTERVALS = (
    "Intervals: 95%, over concepts, since the samples of a concept are not independent: the wider end of a corrected "
    "bootstrap (BCa) and of Student's t on the logit scale of the metric's range; none over fewer than three concepts. "
    "The interval of an incomplete mean (†) is over its own samples."
)
DIFFERENCES = (
    "Mean of the first method minus the second, over the samples that both have. p: flipping the sign of whole "
    "concepts. Holm: p corrected for all pairs of the column."
)
RANKS = (
    "Share of the bootstrap draws of concepts in which a method has each rank, 1 being the best, over the samples that "
    "all methods have; methods that tie share the better rank. τ: Kendall's tau-b between the ranking of a draw and "
    "the ranking of all concepts, mean over draws."
)


def write_statistics(directory: Path, board: Leaderboard, statistics: Statistics) -> list[Path]:
    """Write `statistics.md`, `differences.csv`, `breakdown.csv` and `ranks.csv` to `directory`, and return the paths.

    Earlier ones are replaced. The intervals of the leaderboard's cells are also in `leaderboard.csv`.
    """
    tables = {
        "differences.csv": statistics.differences,
        "breakdown.csv": statistics.breakdown,
        "ranks.csv": statistics.ranks,
    }
    page = directory / "statistics.md"
    write_atomic(page, render_statistics(board, statistics).encode())
    for name, table in tables.items():
        write_csv(directory / name, table)
    return [page, *(directory / name for name in tables)]


def render_statistics(board: Leaderboard, statistics: Statistics) -> str:
    """Return the scores with their intervals, differences between methods, and ranks, as Markdown.

    Breakdowns are for programs only.
    """
    sections = [
        ("Means", INTERVALS, _means(board)),
        ("Differences between methods", DIFFERENCES, _differences(statistics)),
        ("Ranks", RANKS, _ranks(statistics)),
    ]
    lines = [f"# Statistics of {escape_markdown(board.run)}", ""]
    for title, how, table in sections:
        if len(table) > 2:
            lines += [f"## {title}", "", *table, "", f"- {escape_markdown(how)}", ""]
    return "\n".join(lines)


def _means(board: Leaderboard) -> list[str]:
    scores = [place for place, column in enumerate(board.columns) if column.task]
    rows = [row for row in board.rows if row.kind is not RowKind.PUBLISHED]
    return [
        *_head(["Method"], [board.columns[place].title for place in scores]),
        *(
            table_line(
                [escape_markdown(row.title), *(_estimate(board.columns[place], row.cells[place]) for place in scores)]
            )
            for row in rows
        ),
    ]


def _estimate(column: Column, cell: Cell) -> str:
    """Format a mean and its interval: "0.764 [0.731, 0.795]"."""
    shown = number(column, cell) + dagger(cell)
    if cell.low is None:
        return shown
    low, high = (number(column, replace(cell, value=end)) for end in (cell.low, cell.high))
    return f"{shown} [{low}, {high}]"


def _differences(statistics: Statistics) -> list[str]:
    lines = _head(["Column", "Method", "Other"], ["Difference", "p", "Holm", "Samples", "Concepts"])
    for column, rows in _by_column(statistics.columns, statistics.differences):
        for row in rows.itertuples(index=False):
            numbers = [_signed(column, row), f"{row.p:.4f}", f"{row.p_holm:.4f}", f"{row.samples:,}"]
            names = map(escape_markdown, (column.title, str(row.method), str(row.other)))
            lines.append(table_line([*names, *numbers, str(row.concepts)]))
    return lines


def _signed(column: Column, row: Any) -> str:
    mean, low, high = (f"{value:+z.{column.decimals}f}" for value in (row.mean, row.low, row.high))
    return mean if pd.isna(row.low) else f"{mean} [{low}, {high}]"


def _ranks(statistics: Statistics) -> list[str]:
    ranks = range(1, statistics.ranks["method"].nunique() + 1)
    lines = _head(["Column", "Method"], [*map(str, ranks), "τ", "Samples", "Concepts"])
    for column, rows in _by_column(statistics.columns, statistics.ranks):
        for method, own in rows.groupby("method", sort=False):
            shares = own.set_index("rank")["share"].reindex(list(ranks))
            shown = [MISSING if pd.isna(share) else f"{share:.2f}" for share in (*shares, own["kendall"].iloc[0])]
            names = [escape_markdown(column.title), escape_markdown(str(method))]
            counts = [f"{own['samples'].iloc[0]:,}", str(own["concepts"].iloc[0])]
            lines.append(table_line([*names, *shown, *counts]))
    return lines


def _by_column(columns: Sequence[Column], table: pd.DataFrame) -> Iterator[tuple[Column, pd.DataFrame]]:
    for column in columns:
        rows = table[(table["task"] == column.task) & (table["metric"] == column.metric)]
        if len(rows):
            yield column, rows


def _head(names: Sequence[str], numbers: Sequence[str]) -> list[str]:
    heads = table_line(map(escape_markdown, [*names, *numbers]))
    return [heads, table_line([*[":--"] * len(names), *["--:"] * len(numbers)])]
