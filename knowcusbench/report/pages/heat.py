"""Tables with a colour behind each number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from knowcusbench.analysis.columns import MISSING
from knowcusbench.analysis.statistics import BREAKDOWN_BY, Statistics
from knowcusbench.analysis.types import Column

LEVELS = 8
"""Number of colours, from the lowest to the highest value of a table."""


@dataclass(frozen=True)
class HeatCell:
    """A number, its colour (None for none) and its tooltip."""

    text: str
    level: int | None
    tooltip: str = ""


@dataclass(frozen=True)
class HeatTable:
    """Rows of cells below column heads."""

    title: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[HeatCell]]]


def levels(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the colour of each number of a table.

    Colours 0 to `LEVELS` - 1 are even steps from its lowest to its highest value; -1 is NaN.
    """
    unknown = np.isnan(values)
    low, high = (values[~unknown].min(), values[~unknown].max()) if not unknown.all() else (0.0, 0.0)
    scaled = (values - low) / (high - low) * LEVELS if high > low else np.zeros_like(values)
    return np.where(unknown, -1, np.minimum(np.nan_to_num(scaled), LEVELS - 1)).astype(np.intp)


def breakdowns(
    statistics: Statistics, column: Column, methods: Sequence[str], concepts: Sequence[str]
) -> list[HeatTable]:
    """Return a table for every breakdown of a column: a row per level, a column per method.

    A table with a single row would only repeat the leaderboard, and is left out.
    """
    own = statistics.breakdown
    own = own[(own["task"] == column.task) & (own["metric"] == column.metric)]
    tables = [_breakdown(own[own["by"] == by], by, column, methods, concepts) for by in BREAKDOWN_BY]
    return [table for table in tables if len(table.rows) > 1] or tables


def _breakdown(
    rows: pd.DataFrame, by: str, column: Column, methods: Sequence[str], concepts: Sequence[str]
) -> HeatTable:
    means = rows.pivot(index="level", columns="method", values="mean").reindex(columns=list(methods))
    order = [name for name in concepts if name in means.index] if by == "concept" else sorted(means.index)
    values = means.loc[order].to_numpy(np.float64)
    fields = zip(*(rows[name] for name in ("level", "method", "low", "high", "samples")), strict=True)
    tooltips = {(level, method): _tooltip(low, high, samples, column) for level, method, low, high, samples in fields}
    return HeatTable(
        title=by,
        heads=list(methods),
        rows=[
            (
                str(level),
                [
                    _cell(value, colour, column.decimals, tooltips.get((level, method), ""))
                    for method, value, colour in zip(methods, of_level, colours, strict=True)
                ],
            )
            for level, of_level, colours in zip(order, values.tolist(), levels(values).tolist(), strict=True)
        ],
    )


def _cell(value: float, level: int, decimals: int, tooltip: str) -> HeatCell:
    return HeatCell(MISSING, None) if np.isnan(value) else HeatCell(f"{value:z.{decimals}f}", level, tooltip)


def _tooltip(low: float, high: float, samples: int, column: Column) -> str:
    interval = "" if pd.isna(low) else f"95% interval {low:.{column.decimals}f} to {high:.{column.decimals}f}, "
    return f"{interval}{samples:,} samples"


def confusion_tables(matrices: Mapping[str, pd.DataFrame]) -> list[HeatTable]:
    """Count pictures by requested concept (rows) and nearest concept (columns); colours are shares of the row."""
    tables = []
    for applied, matrix in matrices.items():
        heads = [str(name) for name in matrix.columns]
        rows = []
        for asked, counts in zip(map(str, matrix.index), matrix.to_numpy().tolist(), strict=True):
            total = sum(counts)
            cells = [
                HeatCell(
                    str(count) if count else "",
                    min(count * LEVELS // total, LEVELS - 1) if count else None,
                    f"{count} of {total} of {asked} nearest to {nearest}",
                )
                for nearest, count in zip(heads, counts, strict=True)
            ]
            rows.append((asked, cells))
        tables.append(HeatTable(title=applied, heads=heads, rows=rows))
    return tables
