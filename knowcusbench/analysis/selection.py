"""Part of a leaderboard for a paper: some of its rows and columns, in the paper's order and digits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from knowcusbench.analysis.leaderboard import marked
from knowcusbench.analysis.types import Cell, Column, Leaderboard, Row
from knowcusbench.errors import ConfigError
from knowcusbench.metrics.bounds import COSINE_DECIMALS
from knowcusbench.storage.names import matching

PERCENT_DECIMALS = COSINE_DECIMALS - 2


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The part of a leaderboard to show, and its number format.

    Attributes:
        columns: keys ("generation_clip_i"), metrics ("clip_i") or globs of them, in the order of the columns; None
            shows all.
        rows: labels or globs of them, in the order of the rows; None shows all.
        precision: digits after the point of scores; None leaves them to the metric.
        percent: whether scores between -1 and 1 are shown times 100.
        partial: whether `rows` may name rows that do not exist yet.
    """

    columns: tuple[str, ...] | None = None
    rows: tuple[str, ...] | None = None
    precision: int | None = None
    percent: bool = False
    partial: bool = False


def column_keys(columns: Iterable[tuple[str, str]], patterns: Iterable[str]) -> list[str]:
    """Return the keys of the columns, given as (key, metric), that match the patterns, in the patterns' order.

    Raises ConfigError, naming `report.columns`, for a pattern that matches neither a key nor a metric.
    """
    metric_of = dict(columns)
    names = [*metric_of, *dict.fromkeys(metric_of.values())]
    found: dict[str, None] = {}
    for pattern in patterns:
        for name in matching([pattern], names, "report.columns"):
            found.update(dict.fromkeys(key for key, metric in metric_of.items() if name in (key, metric)))
    return list(found)


def chosen(board: Leaderboard, choice: Choice, *, rounded: bool = True) -> Leaderboard:
    """Return the chosen part of `board`, with best and second among its own rows.

    `rounded` rounds its numbers to the digits shown. Raises ConfigError for names that match nothing, and for a
    precision outside 0 to 10.
    """
    if choice.precision is not None and not 0 <= choice.precision <= 10:
        raise ConfigError(f"report.precision: expected 0 to 10 digits, found {choice.precision}")
    columns = {column.key: (index, column) for index, column in enumerate(board.columns)}
    if choice.columns is not None:
        keys = column_keys([(key, column.metric) for key, (_, column) in columns.items()], choice.columns)
        columns = {key: columns[key] for key in keys}
    rows = _rows(board, choice)
    scaled = {key for key, (index, column) in columns.items() if choice.percent and _is_fraction(column, index, rows)}
    shown = tuple(_column(column, choice, key in scaled) for key, (_, column) in columns.items())
    cells = (
        tuple(
            _cell(row.cells[index], 100.0 if column.key in scaled else 1.0, column.decimals if rounded else None)
            for (index, _), column in zip(columns.values(), shown, strict=True)
        )
        for row in rows
    )
    return replace(
        board,
        columns=shown,
        rows=marked(shown, [replace(row, cells=own) for row, own in zip(rows, cells, strict=True)]),
        reading=_reading(board.reading, shown, scaled),
        protocols=_of_metrics(board.protocols, shown),
        remarks=tuple(line for line in board.remarks if line.startswith(tuple(f"{column.name}:" for column in shown))),
    )


def _rows(board: Leaderboard, choice: Choice) -> list[Row]:
    if choice.rows is None:
        return list(board.rows)
    labels = list(dict.fromkeys(row.label for row in board.rows))
    order = matching(choice.rows, labels, "report.rows", partial=choice.partial)
    return [row for label in order for row in board.rows if row.label == label]


def _is_fraction(column: Column, index: int, rows: Sequence[Row]) -> bool:
    values = [cell.value for row in rows if (cell := row.cells[index]).value is not None]
    return column.task is not None and column.decimals >= COSINE_DECIMALS and all(-1 <= v <= 1 for v in values)


def _column(column: Column, choice: Choice, in_percent: bool) -> Column:
    if column.task is None:
        return column
    decimals = PERCENT_DECIMALS if in_percent else column.decimals
    return replace(column, decimals=decimals if choice.precision is None else choice.precision)


def _cell(cell: Cell, factor: float, decimals: int | None) -> Cell:
    def shown(value: float | None) -> float | None:
        if value is None or decimals is None:
            return None if value is None else value * factor
        # Adding 0.0 turns -0.0 into 0.0.
        return round(value * factor, decimals) + 0.0

    return replace(cell, value=shown(cell.value), low=shown(cell.low), high=shown(cell.high))


def _reading(reading: str, columns: Sequence[Column], scaled: set[str]) -> str:
    names = dict.fromkeys(column.name for column in columns if column.key in scaled)
    return f"{reading} In percent: {', '.join(names)}." if names else reading


def _of_metrics(protocols: Mapping[str, str], columns: Sequence[Column]) -> dict[str, str]:
    metrics = {column.metric for column in columns}
    return {metric: digest for metric, digest in protocols.items() if metric in metrics}
