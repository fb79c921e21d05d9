"""The figure of quality against cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from knowcusbench.analysis.types import Column, Leaderboard, RowKind
from knowcusbench.report.figures.style import styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_ABREAST = 4


WIDTH, HEIGHT = 3.0, 2.6
"""Width and height of a panel, in inches."""


DOTS, SIGNS = "osD^v", "x+12348"


FRONT: dict[str, Any] = {"color": "grey", "linewidth": 1, "drawstyle": "steps-post", "zorder": 0}


@styled()
def pareto_figure(board: Leaderboard, cost: Column, table: pd.DataFrame) -> Figure:
    """Plot a panel for every score of `pareto_table`.

    Methods are coloured dots and controls black markers, with their 95% intervals; a line is the front of the methods.
    Empty if there is nothing to compare.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = [column for column in board.columns if column.key in set(table["column"])]
    if not columns:
        return Figure()
    abreast = min(PANELS_ABREAST, len(columns))
    down = math.ceil(len(columns) / abreast)
    styles = _styles(table)
    figure = Figure(figsize=(abreast * WIDTH, down * HEIGHT + 0.4), layout="constrained")
    grid = figure.subplots(down, abreast, squeeze=False).ravel()
    for axes, column in zip(grid, columns, strict=False):
        _draw(axes, table[table["column"] == column.key], styles)
        axes.set_title(column.title, fontsize=10)
        axes.set_xlabel(cost.title, fontsize=9)
    for axes in grid[len(columns) :]:
        axes.remove()
    handles = {label: Line2D([], [], linestyle="none", **style) for label, style in styles.items()}
    handles["front of the methods"] = Line2D([], [], **FRONT)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=min(len(handles), 2 * abreast),
        frameon=False,
        fontsize=8,
    )
    return figure


def _styles(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return colour and marker of every label, the same in all panels."""
    rows = table.drop_duplicates("label")
    methods = rows.loc[rows["kind"] == RowKind.METHOD.value, "label"]
    controls = rows.loc[rows["kind"] == RowKind.CONTROL.value, "label"]
    looks = [{"color": f"C{number % 10}", "marker": DOTS[number // 10 % len(DOTS)]} for number in range(len(methods))]
    signs = [{"color": "black", "marker": SIGNS[number % len(SIGNS)]} for number in range(len(controls))]
    return dict(zip([*methods, *controls], [*looks, *signs], strict=True))


def _draw(axes: Axes, points: pd.DataFrame, styles: Mapping[str, Mapping[str, Any]]) -> None:
    front = points[points["front"]].sort_values("cost")
    axes.plot(front["cost"], front["value"], **FRONT)
    for point in points.to_dict("records"):
        style = styles[point["label"]]
        axes.vlines(point["cost"], point["low"], point["high"], color=style["color"], linewidth=0.8)
        axes.plot(point["cost"], point["value"], linestyle="none", **style)
    axes.margins(x=0.08, y=0.08)
    axes.tick_params(labelsize=8)
