"""Rank correlations with the truth, and their tables."""

from collections.abc import Callable
from itertools import combinations
from math import sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from knowcusbench.analysis.agreement import Agreement, Correlation, build_agreement, correlate
from knowcusbench.analysis.types import MetricHeading, ReportInput
from knowcusbench.benchmark.types import Task
from knowcusbench.report import write_agreement

METRICS = {
    "oracle": MetricHeading(title="Oracle", tasks=frozenset(Task)),
    "clip_i": MetricHeading(title="CLIP-I", tasks=frozenset(Task)),
    "clip_t": MetricHeading(title="CLIP-T", tasks=frozenset({Task.GENERATION})),
}

ScoreRow = tuple[str, str, str, str, str, float]


def spearman(one: list[float], other: list[float]) -> float:
    """Return Pearson's correlation of mean ranks."""
    ranks = [[sum(x < y for x in side) + (side.count(y) + 1) / 2 for y in side] for side in (one, other)]
    return float(np.corrcoef(ranks)[0, 1])


def kendall(one: list[float], other: list[float]) -> float:
    """Return tau-b by its definition, pair by pair."""
    signs = [(np.sign(a - b), np.sign(c - d)) for (a, c), (b, d) in combinations(zip(one, other, strict=True), 2)]
    untied = [sum(sign[side] != 0 for sign in signs) for side in (0, 1)]
    return float(sum(x * y for x, y in signs) / sqrt(untied[0] * untied[1]))


def test_correlations_are_those_worked_out_by_hand() -> None:
    # One swap of neighbours in four: rho = 1 - 6 * 2 / (4 * 15), tau = (5 - 1) / 6.
    found = correlate([1, 2, 3, 4], [10, 30, 20, 40])
    assert found.n == 4
    assert found.spearman == pytest.approx(0.8)
    assert found.kendall == pytest.approx(4 / 6)
    opposite = correlate([1, 2, 3], [3, 2, 1])
    assert (opposite.spearman, opposite.kendall) == (pytest.approx(-1), pytest.approx(-1))


def test_ties_share_ranks() -> None:
    rng = np.random.default_rng(0)
    for size in (5, 40):
        one, other = (rng.integers(0, 4, size).astype(float).tolist() for _ in range(2))
        found = correlate(one, other)
        assert found.spearman == pytest.approx(spearman(one, other))
        assert found.kendall == pytest.approx(kendall(one, other))


def test_values_that_differ_by_rounding_only_are_ties() -> None:
    one = [0.1 + 0.2, 0.3, 0.5, 0.6]
    assert one[0] != one[1]
    assert correlate(one, [2, 1, 3, 4]).kendall == pytest.approx(kendall([0.3, 0.3, 0.5, 0.6], [2, 1, 3, 4]))


@pytest.mark.parametrize(
    ("one", "other"),
    [([], []), ([1, 2], [1, 2]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3], [0.1 + 0.2, 0.3, 0.3])],
)
def test_what_is_undefined_is_not_zero(one: list[float], other: list[float]) -> None:
    assert correlate(one, other) == Correlation(n=len(one), spearman=None, kendall=None)


@pytest.fixture
def inputs(report_input: Callable[..., ReportInput]) -> Callable[..., ReportInput]:
    """Return a function that makes a report's input from rows of sample id, method, task, concept, metric, value."""

    def make(rows: list[ScoreRow], planned: int, truth: tuple[str, ...] = ("oracle",)) -> ReportInput:
        scores = pd.DataFrame(rows, columns=["sample_id", "method", "task", "concept", "metric", "value"])
        labels = list(dict.fromkeys(scores["method"]))
        tasks = list(dict.fromkeys(scores["task"]))
        expected = [(label, task, planned) for label in labels for task in tasks]
        return report_input(
            {label: {} for label in labels},
            metrics=METRICS,
            scores=scores.assign(protocol="abc", note=""),
            expected=pd.DataFrame(expected, columns=["method", "task", "planned"]),
            truth=truth,
        )

    return make


def scored(method: str, metric: str, values: dict[str, float], task: str = "generation") -> list[ScoreRow]:
    return [(sample, method, task, sample[0], metric, value) for sample, value in values.items()]


def test_samples_are_joined_on_method_and_sample_whatever_their_order(inputs: Callable[..., ReportInput]) -> None:
    truth = {"a": {"c1": 0.2, "c2": 0.4, "d1": 0.6}, "b": {"c1": 1.0, "c2": 0.0, "d1": 0.8}}
    other = {"a": {"d1": 5.0, "c1": 3.0, "c2": 1.0}, "b": {"d1": 2.0, "c1": 6.0, "x9": 9.0}}
    rows = [row for label, values in truth.items() for row in scored(label, "oracle", values)]
    rows += [row for label, values in other.items() for row in scored(label, "clip_i", values)]
    rows += scored("a", "clip_t", {"c1": float("nan"), "c2": 1.0, "d1": 2.0})
    found = {row.metric: row for row in build_agreement(inputs(rows, 3))}
    joined = ([0.2, 0.4, 0.6, 1.0, 0.8], [3.0, 1.0, 5.0, 6.0, 2.0])
    assert found["clip_i"].samples.n == 5
    assert found["clip_i"].samples.spearman == pytest.approx(spearman(*joined))
    assert found["clip_i"].samples.kendall == pytest.approx(kendall(*joined))
    assert found["clip_t"].samples == Correlation(n=2, spearman=None, kendall=None)


def test_methods_are_compared_by_their_means_over_concepts_and_only_complete_ones(
    inputs: Callable[..., ReportInput],
) -> None:
    # Concept c has two samples and d one. Means over concepts rank the methods 1 2 3 4, means over samples 2 1 3 4.
    truth = {
        "m1": {"c1": 0.3, "c2": 0.3, "d1": 0.1},
        "m2": {"c1": 0.0, "c2": 0.0, "d1": 0.5},
        "m3": {"c1": 0.6, "c2": 0.6, "d1": 0.6},
        "m4": {"c1": 0.7, "c2": 0.7, "d1": 0.7},
        "partial": {"c1": 1.0, "c2": 1.0},
    }
    clip = {"m1": 1.0, "m2": 3.0, "m3": 2.0, "m4": 4.0, "partial": 0.0}
    rows = [row for label, values in truth.items() for row in scored(label, "oracle", values)]
    rows += [row for label, x in clip.items() for row in scored(label, "clip_i", {"c1": x, "c2": x, "d1": x})]
    (row, _) = build_agreement(inputs(rows, 3))
    assert row.methods.n == 4
    assert row.methods.spearman == pytest.approx(0.8)
    assert row.methods.kendall == pytest.approx(4 / 6)


def test_tasks_stay_apart_and_metrics_have_rows_where_both_are_defined(inputs: Callable[..., ReportInput]) -> None:
    values = {"c1": 1.0, "c2": 2.0, "c3": 3.0}
    falling = {"c1": 3.0, "c2": 2.0, "c3": 1.0}
    rows = [*scored("a", "oracle", values, "reconstruction"), *scored("a", "clip_i", values, "reconstruction")]
    rows += [*scored("a", "oracle", values), *scored("a", "clip_i", falling), *scored("a", "clip_t", values)]
    found = build_agreement(inputs(rows, 3, truth=("oracle", "not_run")))
    assert [(row.task.value, row.metric, row.samples.spearman) for row in found] == [
        ("reconstruction", "clip_i", pytest.approx(1)),
        ("generation", "clip_i", pytest.approx(-1)),
        ("generation", "clip_t", pytest.approx(1)),
    ]
    assert build_agreement(inputs(rows, 3, truth=())) == ()


@pytest.fixture
def row() -> Agreement:
    return Agreement(
        truth="oracle",
        truth_title="Oracle_1",
        metric="clip_i",
        metric_title="CLIP-I",
        task=Task.GENERATION,
        methods=Correlation(n=2, spearman=None, kendall=None),
        samples=Correlation(n=1200, spearman=-1 / 3, kendall=-0.001),
    )


def test_tables_show_numbers_and_a_dash_for_what_is_undefined(row: Agreement, tmp_path: Path) -> None:
    csv, markdown, latex = write_agreement(tmp_path, [row])
    (line,) = pd.read_csv(csv, float_precision="round_trip").to_dict("records")
    assert line["samples_spearman"] == -1 / 3
    assert np.isnan(line["methods_spearman"])
    assert np.isnan(line["methods_kendall"])
    assert (line["truth"], line["task"], line["metric"], line["methods"]) == ("oracle", "generation", "clip_i", 2)
    assert r"| Oracle\_1 | Gen. | CLIP-I | 2 | – | – | 1,200 | -0.33 | 0.00 |" in markdown.read_text()
    source = latex.read_text()
    assert r"CLIP-I & 2 & \textendash{} & \textendash{} & 1,200 & $-$0.33 & 0.00 \\" in source
    assert r"\multicolumn{7}{l}{Gen. Oracle\_1} \\" in source
    assert source.isascii()


def test_without_a_truth_there_is_no_table_and_an_earlier_one_goes(row: Agreement, tmp_path: Path) -> None:
    write_agreement(tmp_path, [row])
    assert write_agreement(tmp_path, []) == []
    assert list(tmp_path.iterdir()) == []
