"""Quality against cost: a table of the methods that are worth their cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from knowcusbench.analysis.types import Column, Leaderboard, RowKind

PARETO = ["column", "label", "kind", "cost", "value", "low", "high", "front"]


def pareto_front(points: Sequence[tuple[float, float]], *, higher_is_better: bool = True) -> list[int]:
    """Return the indices of the points (cost, quality) on the Pareto front, cheapest first.

    No other point is as good or better in both and better in one.

    >>> pareto_front([(1, 0.2), (2, 0.5), (3, 0.4)])
    [0, 1]
    """
    sign = -1 if higher_is_better else 1
    order = sorted(range(len(points)), key=lambda place: (points[place][0], sign * points[place][1]))
    front: list[int] = []
    for place in order:
        if not front or sign * points[place][1] < sign * points[front[-1]][1] or points[place] == points[front[-1]]:
            front.append(place)
    return front


def pareto_table(board: Leaderboard, cost: Column) -> pd.DataFrame:
    """Tabulate every score of methods and controls with the cost of its row: columns `PARETO`.

    `cost` is in the units of the column `cost`. `front` says whether a method is on the front of its column; the front
    is computed over methods, so controls are never on it. Rows without either number are left out.
    """
    keys = [column.key for column in board.columns]
    if cost.key not in keys:
        return pd.DataFrame(columns=PARETO)
    records: list[tuple[Any, ...]] = []
    for index, column in enumerate(board.columns):
        if column.task is None:
            continue
        there = [
            (row, paid, cell)
            for row in board.rows
            if row.kind in (RowKind.METHOD, RowKind.CONTROL)
            and (paid := row.cells[keys.index(cost.key)].value) is not None
            and (cell := row.cells[index]).value is not None
        ]
        methods = [(row.label, (paid, cell.value or 0.0)) for row, paid, cell in there if row.kind == "method"]
        higher = bool(column.higher_is_better)
        best = {methods[place][0] for place in pareto_front([point for _, point in methods], higher_is_better=higher)}
        records += [
            (column.key, row.label, row.kind.value, paid, cell.value, cell.low, cell.high, row.label in best)
            for row, paid, cell in there
        ]
    return pd.DataFrame(records, columns=PARETO).astype({"low": float, "high": float})
