"""Best and second where the differences between methods are significant."""

from knowcusbench.analysis.statistics import Statistics
from knowcusbench.analysis.types import Column, Leaderboard, Mark, RowKind

ALPHA = 0.05
"""A difference is significant if its p-value, corrected for all pairs of the column, is below this."""


def significant_marks(board: Leaderboard, statistics: Statistics) -> dict[tuple[str, str], Mark]:
    """Return marks by label and key of a column.

    A method is best if it differs from every other one. It is second if the best is marked and it differs from all the
    rest (at least one). An incomplete mean does not compete. Costs have no marks: with one adaptation per concept there
    is nothing to test.
    """
    pairs = statistics.differences[statistics.differences["p_holm"] < ALPHA]
    found = {
        (str(row.task), str(row.metric), frozenset((str(row.method), str(row.other))))
        for row in pairs.itertuples(index=False)
    }
    marks: dict[tuple[str, str], Mark] = {}
    for place, column in enumerate(board.columns):
        ranked = _ranked(board, column, place)
        for number, mark in enumerate(Mark):
            if len(ranked) < number + 2:
                break
            label, below = ranked[number], ranked[number + 1 :]
            if not all((str(column.task), column.metric, frozenset((label, other))) in found for other in below):
                break
            marks[label, column.key] = mark
    return marks


def _ranked(board: Leaderboard, column: Column, place: int) -> list[str]:
    """Return the labels that compete in a column, best first."""
    if column.task is None or column.higher_is_better is None:
        return []
    values = {
        row.label: cell.value
        for row in board.rows
        if row.kind is RowKind.METHOD and (cell := row.cells[place]).value is not None and cell.complete
    }
    return sorted(values, key=values.__getitem__, reverse=column.higher_is_better)
