"""The leaderboard for programs: CSV and JSON with every digit."""

import json

from knowcusbench.analysis.footnotes import footnotes
from knowcusbench.analysis.leaderboard import leaderboard_frame
from knowcusbench.analysis.types import Cell, Column, Leaderboard

SCHEMA_VERSION = 1
"""Version of the JSON's keys."""


def render_csv(board: Leaderboard) -> str:
    """Return a line per row, as in `leaderboard_frame`."""
    return leaderboard_frame(board).to_csv(index=False, lineterminator="\n")


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
