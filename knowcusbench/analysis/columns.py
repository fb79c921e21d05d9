"""The columns of the leaderboard and the digits of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from knowcusbench.analysis.types import Cell, Column, MetricHeading, ReportInput
from knowcusbench.benchmark.types import Task

MIB = 2**20

TASK_GROUPS = {Task.RECONSTRUCTION: "Recon.", Task.GENERATION: "Gen."}

MISSING = "–"


@dataclass(frozen=True, kw_only=True)
class CostColumn:
    """A cost of adaptation or drawing: `field` of the costs table in units of `unit`, reduced over concepts."""

    column: Column
    field: str
    unit: float
    reduction: Literal["mean", "max"]


def _cost(metric: str, group: str, name: str, decimals: int) -> Column:
    return Column(metric=metric, task=None, group=group, name=name, decimals=decimals, higher_is_better=False)


COSTS = (
    CostColumn(column=_cost("train_seconds", "Train", "(s)", 1), field="seconds", unit=1, reduction="mean"),
    # The peak is the memory a device must have, so the worst concept counts.
    CostColumn(
        column=_cost("peak_memory_mib", "Peak mem.", "(MiB)", 0),
        field="peak_memory_bytes",
        unit=MIB,
        reduction="max",
    ),
    CostColumn(column=_cost("adapter_mib", "Adapter", "(MiB)", 2), field="adapter_bytes", unit=MIB, reduction="mean"),
    CostColumn(column=_cost("draw_seconds", "Draw", "(s/image)", 2), field="image_seconds", unit=1, reduction="mean"),
)


def score_columns(inputs: ReportInput) -> tuple[Column, ...]:
    """Return the columns of scores, for tasks with planned samples."""
    planned = set(inputs.expected.loc[inputs.expected["planned"] > 0, "task"])
    return metric_columns(inputs.metrics, [task for task in Task if task.value in planned])


def metric_columns(metrics: Mapping[str, MetricHeading], tasks: Sequence[Task]) -> tuple[Column, ...]:
    """Return a column for every task and each metric defined for it, ordered by task."""
    return tuple(
        Column(
            metric=metric,
            task=task,
            group=TASK_GROUPS[task],
            name=heading.title,
            decimals=heading.decimals,
            higher_is_better=heading.higher_is_better,
        )
        for task in tasks
        for metric, heading in metrics.items()
        if task in heading.tasks
    )


def number(column: Column, cell: Cell) -> str:
    """Format a cell's value: "0.764", "≈1620" for an approximate one, "–" for none."""
    if cell.value is None:
        return MISSING
    if cell.approximate:
        return f"≈{cell.value:.0f}"
    return f"{cell.value:z.{column.decimals}f}"
