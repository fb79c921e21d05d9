"""The leaderboard for programs: CSV and JSON with every digit."""

import json

import pandas as pd

from knowcusbench.analysis.footnotes import footnotes
from knowcusbench.analysis.types import Cell, Column, Leaderboard, Row

SCHEMA_VERSION = 1
"""Version of the JSON's keys."""


def render_csv(board: Leaderboard) -> str:
    """Return a line per row: label, kind, incomplete, approximate, then a value per column.

    A score is followed by the ends of its 95% interval, `<column>_low` and `<column>_high`.

    `incomplete` lists the columns whose mean is over part of the set ("generation_clip_t=873/875"), and the number of
    images that are missing ("images=-2") or have changed since they were scored ("altered=1"); `approximate` lists the
    columns whose source says "about".
    """
    return leaderboard_frame(board).to_csv(index=False, lineterminator="\n")


def leaderboard_frame(board: Leaderboard) -> pd.DataFrame:
    """Return the rows and columns that `render_csv` writes."""
    return pd.DataFrame([_record(board, row) for row in board.rows])


def _record(board: Leaderboard, row: Row) -> dict[str, str | float | None]:
    cells = {column.key: cell for column, cell in zip(board.columns, row.cells, strict=True)}
    gaps = [f"{key}={cell.n}/{cell.expected}" for key, cell in cells.items() if not cell.complete]
    if row.gone:
        gaps.append(f"images={-row.gone}")
    if row.altered:
        gaps.append(f"altered={row.altered}")
    return {
        "label": row.label,
        "kind": row.kind.value,
        "incomplete": " ".join(gaps),
        "approximate": " ".join(key for key, cell in cells.items() if cell.approximate),
        **{
            key: value
            for column, cell in zip(board.columns, row.cells, strict=True)
            for key, value in _numbers(column, cell).items()
        },
    }


def _numbers(column: Column, cell: Cell) -> dict[str, float | None]:
    ends = {f"{column.key}_low": cell.low, f"{column.key}_high": cell.high} if column.task else {}
    return {column.key: cell.value, **ends}


def render_json(board: Leaderboard) -> str:
    """Return all of the leaderboard as JSON. A missing value is null."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "run": board.run,
        "protocols": dict(board.protocols),
        "columns": [_column(column) for column in board.columns],
        "rows": [
            {
                "label": row.label,
                "kind": row.kind,
                "source": row.source or None,
                "cells": {column.key: _cell(cell) for column, cell in zip(board.columns, row.cells, strict=True)},
            }
            for row in board.rows
        ],
        "footnotes": footnotes(board),
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _column(column: Column) -> dict[str, str | bool | None]:
    return {
        "key": column.key,
        "title": column.title,
        "task": column.task,
        "metric": column.metric,
        "higher_is_better": column.higher_is_better,
    }


def _cell(cell: Cell) -> dict[str, str | float | bool | None]:
    return {
        "value": cell.value,
        "low": cell.low,
        "high": cell.high,
        "n": cell.n,
        "expected": cell.expected,
        "counted": cell.counted,
        "approximate": cell.approximate,
        "mark": cell.mark,
    }
