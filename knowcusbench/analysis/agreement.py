"""Agreement of metrics with the metrics taken as truth: rank correlations over methods and over samples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from knowcusbench.analysis.reduction import MEANS, concept_means
from knowcusbench.analysis.resampling import DECIMALS
from knowcusbench.analysis.types import ReportInput
from knowcusbench.benchmark.types import Task

FEWEST = 3
"""Fewest pairs with a correlation."""


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """How similarly two metrics rank the same items.

    Attributes:
        n: number of pairs.
        spearman, kendall: Spearman's rho and Kendall's tau-b, from -1 to 1; None where they are undefined (fewer than
            three pairs, or one side is constant).
    """

    n: int
    spearman: float | None
    kendall: float | None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A metric against the truth in one task.

    Attributes:
        truth, metric: keys of metrics; `truth_title` and `metric_title` are their headings.
        methods: over the scores of methods and controls (means as in the leaderboard) whose samples all have both
            scores.
        samples: over single images of all methods together.
    """

    truth: str
    truth_title: str
    metric: str
    metric_title: str
    task: Task
    methods: Correlation
    samples: Correlation


def correlate(truth: Sequence[float], metric: Sequence[float]) -> Correlation:
    """Return the rank correlations of two sequences of the same length with finite values, by scipy.stats.

    Ties share ranks.

    >>> found = correlate([1, 2, 3, 4], [10, 30, 20, 40])
    >>> round(found.spearman, 3), round(found.kendall, 3)
    (0.8, 0.667)
    """
    from scipy import stats

    one, other = np.round(np.asarray([truth, metric], dtype=np.float64), DECIMALS)
    if len(one) < FEWEST or np.ptp(one) == 0 or np.ptp(other) == 0:
        return Correlation(n=len(one), spearman=None, kendall=None)
    return Correlation(
        n=len(one),
        spearman=float(stats.spearmanr(one, other).statistic),
        kendall=float(stats.kendalltau(one, other).statistic),
    )


def build_agreement(inputs: ReportInput) -> tuple[Agreement, ...]:
    """Compare every other metric with every metric of `inputs.truth`, in each planned task that defines both."""
    planned = set(inputs.expected.loc[inputs.expected["planned"] > 0, "task"])
    return tuple(
        Agreement(
            truth=truth,
            truth_title=inputs.metrics[truth].title,
            metric=metric,
            metric_title=heading.title,
            task=task,
            methods=_over_methods(inputs, task, truth, metric),
            samples=_over_samples(inputs, task, truth, metric),
        )
        for truth in inputs.truth
        if truth in inputs.metrics
        for task in Task
        if task in planned & inputs.metrics[truth].tasks
        for metric, heading in inputs.metrics.items()
        if metric not in inputs.truth and task in heading.tasks
    )


def _over_methods(inputs: ReportInput, task: Task, truth: str, metric: str) -> Correlation:
    means = MEANS[inputs.reduction](concept_means(inputs.scores[inputs.scores["task"] == task]))
    expected = inputs.expected[inputs.expected["task"] == task]

    def pairs() -> Iterator[tuple[float, float]]:
        for label, count in zip(expected["method"], expected["planned"], strict=True):
            both = [means.get((label, task, name)) for name in (truth, metric)]
            values = [mean.value for mean in both if mean and mean.n == count]
            if len(values) == 2:
                yield values[0], values[1]

    return correlate(*_columns(list(pairs())))


def _over_samples(inputs: ReportInput, task: Task, truth: str, metric: str) -> Correlation:
    own = inputs.scores[inputs.scores["task"] == task].astype({"method": str, "sample_id": str})
    one, other = (own.loc[own["metric"] == name, ["method", "sample_id", "value"]] for name in (truth, metric))
    joined = one.merge(other, on=["method", "sample_id"]).dropna()
    return correlate(joined["value_x"].tolist(), joined["value_y"].tolist())


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [one for one, _ in pairs], [other for _, other in pairs]
