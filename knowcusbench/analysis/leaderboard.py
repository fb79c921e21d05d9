"""The leaderboard, built from the scores of a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from knowcusbench.adaptation.method import Role
from knowcusbench.analysis.columns import COSTS, score_columns
from knowcusbench.analysis.footnotes import reading
from knowcusbench.analysis.reduction import (
    MEANS,
    Mean,
    ceiling_means,
    concept_means,
    cost_means,
    protocols,
    remarks,
    score_intervals,
)
from knowcusbench.analysis.resampling import Interval
from knowcusbench.analysis.types import Cell, Column, Counted, Leaderboard, Mark, ReportInput, Row, RowKind
from knowcusbench.errors import RunError
from knowcusbench.metrics.protocol import Reduction

SHUFFLED, REAL_IMAGES = "shuffled", "real images"
"""Labels of the rows that are not methods."""


def build_leaderboard(inputs: ReportInput) -> Leaderboard:
    """Reduce and mark all rows and columns.

    Samples become one number as `inputs.reduction` says (see `reduction.MEANS`). Only methods compete for best and
    second, in columns where complete means differ. Numbers that print alike share their mark.

    Raises RunError if the scores of a metric come from more than one protocol, or outnumber the plan.
    """
    digests = protocols(inputs.scores, inputs.metrics)
    columns = score_columns(inputs) + tuple(cost.column for cost in COSTS)
    rows = (
        *_own_rows(inputs, columns),
        *_floor_rows(inputs, columns),
        _ceiling_row(inputs, columns),
        *_published_rows(inputs, columns),
    )
    return Leaderboard(
        title="Leaderboard",
        run=inputs.run,
        reading=reading(inputs.reduction, columns),
        columns=columns,
        rows=marked(columns, rows),
        protocols=digests,
        remarks=remarks(inputs.scores, inputs.metrics),
    )


def _own_rows(inputs: ReportInput, columns: Sequence[Column]) -> list[Row]:
    concepts = concept_means(inputs.scores)
    scores, intervals = MEANS[inputs.reduction](concepts), score_intervals(concepts, inputs.reduction, inputs.bounds)
    costs = {cost.column: cost_means(inputs.costs, cost) for cost in COSTS}
    planned = inputs.expected.set_index(["method", "task"])["planned"].to_dict()

    def cell(label: str, column: Column) -> Cell:
        if column.task is None:
            return mean_cell(costs[column].get(label), inputs.concepts, Counted.CONCEPTS)
        expected = planned.get((label, column.task), 0)
        mean = scores.get((label, column.task, column.metric))
        if mean and mean.n > expected:
            raise RunError(
                f"{label}: {mean.n} scores of {column.metric} for {expected} planned samples of the "
                f"{column.task} task; remove the scores of {label} in run {inputs.run} and score again"
            )
        return mean_cell(mean, expected, Counted.SAMPLES, intervals.get((label, column.task, column.metric)))

    return [
        Row(
            label=label,
            kind=kind_of(role),
            cells=tuple(cell(label, column) for column in columns),
            gone=inputs.gone.get(label, 0),
            altered=inputs.altered.get(label, 0),
        )
        for label, role in in_order(inputs.methods)
    ]


def mean_cell(mean: Mean | None, expected: int, counted: Counted, interval: Interval = None) -> Cell:
    if mean is None or mean.n == 0:
        return Cell(expected=expected, counted=counted)
    low, high = interval or (None, None)
    return Cell(value=mean.value, low=low, high=high, n=mean.n, expected=expected, counted=counted)


def kind_of(role: Role) -> RowKind:
    """Return the kind of a method's row: floors and ceilings frame the methods as controls."""
    return RowKind.METHOD if role is Role.METHOD else RowKind.CONTROL


def in_order(methods: Mapping[str, Role]) -> list[tuple[str, Role]]:
    """Return the methods with floors first and ceilings last; methods keep their order."""
    return sorted(methods.items(), key=lambda entry: entry[1].place)


def _floor_rows(inputs: ReportInput, columns: Sequence[Column]) -> Iterator[Row]:
    """Return the score of mismatched image/reference (or prompt) pairs, pooled over methods, if there are any."""
    if inputs.floors.empty:
        return
    everyone = pd.Categorical.from_codes([0] * len(inputs.floors), pd.Index([SHUFFLED]))
    floors = concept_means(inputs.floors.assign(method=everyone))
    means, intervals = MEANS[inputs.reduction](floors), score_intervals(floors, inputs.reduction, inputs.bounds)
    keys = [(SHUFFLED, str(column.task), column.metric) for column in columns]
    cells = (mean_cell(means.get(key), 0, Counted.SAMPLES, intervals.get(key)) for key in keys)
    yield Row(label=SHUFFLED, kind=RowKind.FLOOR, cells=tuple(cells))


def _ceiling_row(inputs: ReportInput, columns: Sequence[Column]) -> Row:
    """Return the scores of real images against each other: one for both tasks, none for metrics without references."""
    means = ceiling_means(inputs.ceilings)
    concepts = concept_means(inputs.ceilings.assign(method=REAL_IMAGES, task=""))
    intervals = score_intervals(concepts, Reduction.macro, inputs.bounds)

    def cell(metric: str) -> Cell:
        if metric not in means:
            return Cell()
        return mean_cell(means[metric], inputs.concepts, Counted.CONCEPTS, intervals[REAL_IMAGES, "", metric])

    return Row(label=REAL_IMAGES, kind=RowKind.CEILING, cells=tuple(cell(column.metric) for column in columns))


def _published_rows(inputs: ReportInput, columns: Sequence[Column]) -> Iterator[Row]:
    for method in dict.fromkeys(value.method for value in inputs.published):
        own = [value for value in inputs.published if value.method == method]
        by_column = {(value.task, value.metric): value for value in own}
        values = [by_column.get((column.task, column.metric)) for column in columns]
        cells = (Cell(value=value.value, approximate=value.approximate) if value else Cell() for value in values)
        yield Row(label=method, kind=RowKind.PUBLISHED, cells=tuple(cells), source=own[0].source)


def marked(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows with the best and second of every column marked."""
    marks = [_marks(column, rows, index) for index, column in enumerate(columns)]
    return tuple(
        replace(
            row,
            cells=tuple(
                replace(cell, mark=of_column.get(place)) for cell, of_column in zip(row.cells, marks, strict=True)
            ),
        )
        for place, row in enumerate(rows)
    )


def _marks(column: Column, rows: Sequence[Row], index: int) -> dict[int, Mark]:
    """Return the marks by row index. An incomplete mean does not compete: the missing part could be the hard one."""
    shown = {
        place: round(cell.value, column.decimals)
        for place, row in enumerate(rows)
        if row.kind is RowKind.METHOD and (cell := row.cells[index]).value is not None and cell.complete
    }
    ranked = sorted(set(shown.values()), reverse=bool(column.higher_is_better))
    if len(ranked) < 2 or column.higher_is_better is None:
        return {}
    mark_of = dict(zip(ranked, Mark, strict=False))
    return {place: mark_of[value] for place, value in shown.items() if value in mark_of}


def leaderboard_frame(board: Leaderboard) -> pd.DataFrame:
    """Return a leaderboard as a table with every digit.

    Its columns are label, kind, incomplete, approximate, then one per column of the board; after a score the ends of
    its 95% interval, `<column>_low` and `<column>_high`. `incomplete` lists the columns whose mean is over part of the
    set ("generation_clip_t=873/875"), and the number of images that are not there ("images=-2") or are no longer those
    that were scored ("altered=1"); `approximate` those whose source says "about".
    """
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
