"""A small run with hand-made numbers, from which a test changes what it is about."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pytest

from knowcusbench.adaptation.method import Role
from knowcusbench.benchmark.types import Task
from knowcusbench.report import Leaderboard, MetricHeading, ReportInput
from knowcusbench.report.types import Cell, Row

METRICS = {
    "clip_i": MetricHeading(title="CLIP-I", tasks=frozenset(Task)),
    "clip_t": MetricHeading(title="CLIP-T", tasks=frozenset({Task.GENERATION})),
    "pickscore": MetricHeading(title="PickScore", tasks=frozenset({Task.GENERATION}), decimals=2),
}

ROLES = {"base": Role.FLOOR, "leak": Role.FLOOR, "anchor": Role.CEILING}
"""Of labels that are no methods."""

COSTS = ["method", "concept", "seconds", "peak_memory_bytes", "adapter_bytes", "image_seconds"]

ScoreRow = tuple[str, str, str, str, float]


def _score_table(rows: Sequence[ScoreRow]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["method", "task", "concept", "metric", "value"])
    return table.assign(
        sample_id=[f"{n:016x}" for n in range(len(table))],
        knowledge_aspect="origin",
        prompt_aspect="style_transfer",
        protocol="abc",
        note="",
    )


@pytest.fixture
def score_table() -> Callable[[Sequence[ScoreRow]], pd.DataFrame]:
    """Scores from rows of method, task, concept, metric, value."""
    return _score_table


@pytest.fixture
def report_input() -> Callable[..., ReportInput]:
    """Makes the input of a report from {label: {metric: value}}: one concept, one generation sample a method.
    Any part can be given by name instead."""

    def make(values: Mapping[str, Mapping[str, float]], **parts: Any) -> ReportInput:
        defaults: dict[str, Any] = {
            "run": "night",
            "methods": {label: ROLES.get(label, Role.METHOD) for label in values},
            "metrics": METRICS,
            "concepts": 1,
            "scores": _score_table(
                [
                    (label, "generation", "cat", metric, value)
                    for label, scores in values.items()
                    for metric, value in scores.items()
                ]
            ),
            "expected": pd.DataFrame(
                [(label, "generation", 1) for label in values], columns=["method", "task", "planned"]
            ),
            "costs": pd.DataFrame(
                [(label, "cat", 10.0, 2**30, 2**20, 0.25) for label in values],
                columns=COSTS,
            ),
            "ceilings": pd.DataFrame({"metric": ["clip_i"], "concept": ["cat"], "value": [0.9]}),
        }
        return ReportInput(**(defaults | parts))

    return make


@pytest.fixture
def row_of() -> Callable[[Leaderboard, str], Row]:
    """The first row with a label."""
    return lambda board, label: next(row for row in board.rows if row.label == label)


@pytest.fixture
def cell_of(row_of: Callable[[Leaderboard, str], Row]) -> Callable[[Leaderboard, str, str], Cell]:
    """The cell of a label and a column's key."""

    def find(board: Leaderboard, label: str, key: str) -> Cell:
        return row_of(board, label).cells[[column.key for column in board.columns].index(key)]

    return find
