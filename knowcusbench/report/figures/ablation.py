"""An ablation as a figure: one panel per metric and cost over the values of the setting."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from knowcusbench.analysis.ablation import Ablation
from knowcusbench.analysis.types import Column
from knowcusbench.report.figures.style import styled, write_figure
from knowcusbench.report.tables.ablation import shown_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_ABREAST = 4
WIDTH, HEIGHT = 3.4, 2.8
"""Width and height of a panel, in inches."""

CONTROL_STYLES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


@styled()
def ablation_figure(ablation: Ablation) -> Figure:
    """Plot a panel for every column that has a value.

    It shows a thin line per concept, a thick one for their mean (dots where the values have no order), and horizontal
    lines for the means of controls. Empty if there are no measurements yet.
    """
    from matplotlib.figure import Figure

    present = set(ablation.per_concept["column"])
    columns = [column for column in ablation.columns if column.key in present]
    if not columns:
        return Figure()
    abreast = min(PANELS_ABREAST, len(columns))
    down = math.ceil(len(columns) / abreast)
    # Without pyplot: no global state, and no window system.
    figure = Figure(figsize=(abreast * WIDTH, down * HEIGHT + 0.4), layout="constrained")
    grid = figure.subplots(down, abreast, squeeze=False).ravel()
    for axes, column in zip(grid, columns, strict=False):
        _draw(axes, ablation, column)
    for axes in grid[len(columns) :]:
        axes.remove()
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _draw(axes: Axes, ablation: Ablation, column: Column) -> None:
    places = {
        setting.label: float(setting.value) if ablation.scale == "log" else float(number)
        for number, setting in enumerate(ablation.settings)
    }
    values = ablation.per_concept[ablation.per_concept["column"] == column.key]
    means = ablation.summary[ablation.summary["column"] == column.key].set_index("label")["mean"]
    own = values[values["label"].isin(places)]
    for number, (_, rows) in enumerate(own.groupby("concept", observed=True)):
        _line(
            axes,
            rows.set_index("label")["value"],
            places,
            label="one concept" if not number else None,
            color="C7",
            linewidth=0.7,
        )
    mean = {"color": "C0", "marker": "o", "linewidth": 2.0 if ablation.scale == "log" else 0.0}
    _line(axes, means, places, label="mean of concepts", **mean)
    for label, style in zip(ablation.controls, CONTROL_STYLES, strict=False):
        if label in means:
            axes.axhline(means[label], color="black", linewidth=1, linestyle=style, label=f"{label} (control)")
    axes.set_title(column.title, fontsize=10)
    axes.set_xlabel(ablation.title)
    if ablation.scale == "log":
        axes.set_xscale("log")
    axes.set_xticks(list(places.values()), [shown_value(setting.value) for setting in ablation.settings])
    axes.minorticks_off()
    axes.tick_params(axis="x", rotation=30 if ablation.scale == "category" else 0, labelsize=8)


def _line(axes: Axes, values: pd.Series[float], places: dict[str, float], **style: Any) -> None:
    there = [name for name in places if name in values]
    axes.plot([places[name] for name in there], [values[name] for name in there], **style)


def write_ablation_figure(directory: Path, ablation: Ablation) -> list[Path]:
    """Write `ablation.png` and `ablation.pdf` to `directory`, replacing earlier ones, and return the paths."""
    return write_figure(directory, "ablation", ablation_figure(ablation))
