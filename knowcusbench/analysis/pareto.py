"""Quality against cost: a table of the methods that are worth their cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from knowcusbench.analysis.types import Column, Leaderboard, RowKind

if TYPE_CHECKING:
    pass

PARETO = ["column", "label", "kind", "cost", "value", "low", "high", "front"]


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each point (cost, quality) whether it is on the Pareto front.

    A point is off the front if another one is as cheap and better, or as good and cheaper.

    >>> on_front([(1, 0.2), (2, 0.5), (3, 0.4)])
    [True, True, False]
    """
    return [
        not any(
            cost <= own_cost and quality >= own_quality and (cost, quality) != (own_cost, own_quality)
            for cost, quality in points
        )
        for own_cost, own_quality in points
    ]


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
        sign = 1 if column.higher_is_better else -1
        there = [
            (row, paid, cell)
            for row in board.rows
            if row.kind in (RowKind.METHOD, RowKind.CONTROL)
            and (paid := row.cells[keys.index(cost.key)].value) is not None
            and (cell := row.cells[index]).value is not None
        ]
        methods = [(row.label, (paid, sign * (cell.value or 0))) for row, paid, cell in there if row.kind == "method"]
        best = dict(zip((label for label, _ in methods), on_front([point for _, point in methods]), strict=True))
        records += [
            (column.key, row.label, row.kind.value, paid, cell.value, cell.low, cell.high, best.get(row.label, False))
            for row, paid, cell in there
        ]
    return pd.DataFrame(records, columns=PARETO).astype({"low": float, "high": float})
