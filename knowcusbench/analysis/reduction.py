"""Reduction of samples to one number per method: means, protocols and notes."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from knowcusbench.analysis.columns import CostColumn
from knowcusbench.analysis.resampling import Floats, Interval, interval
from knowcusbench.analysis.types import MetricHeading
from knowcusbench.errors import RunError
from knowcusbench.metrics.bounds import UNBOUNDED, Bounds
from knowcusbench.metrics.protocol import Reduction

CELL = ["method", "task", "metric"]
"""Key of one score in the leaderboard."""


class Mean(NamedTuple):
    """A mean, and the number `n` of samples or concepts behind it."""

    value: float
    n: int


def concept_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Reduce scores to concepts: columns `CELL`, concept, value (mean over the concept's samples) and n (their number).

    All means are computed from this small table. NaN scores count as missing.
    """
    return reduce_groups(scores, [*CELL, "concept"], "value")


def macro_means(concepts: pd.DataFrame) -> dict[tuple[str, str, str], Mean]:
    """Return the mean over concepts of each concept's mean over samples, by (method, task, metric):

        m = 1/|C| * sum over c in C of ( 1/|S_c| * sum over s in S_c of score(s) )

    C are the concepts with scores and S_c their scored samples: a concept counts once, however many prompts it has.
    `concepts` as by `concept_means`; `n` counts samples.
    """
    means = reduce_groups(concepts, CELL, "value")
    means["n"] = concepts.groupby(CELL, observed=True, as_index=False)["n"].sum()["n"]
    return _by_cell(means)


def micro_means(concepts: pd.DataFrame) -> dict[tuple[str, str, str], Mean]:
    """Return the mean over all scored samples, by (method, task, metric). Concepts weigh by their number of samples.

    `concepts` as by `concept_means`.
    """
    counted = concepts[concepts["n"] > 0]
    sums = counted.assign(value=counted["value"] * counted["n"])
    totals = sums.groupby(CELL, observed=True, as_index=False)[["value", "n"]].sum()
    return _by_cell(totals.assign(value=totals["value"] / totals["n"]))


def _by_cell(means: pd.DataFrame) -> dict[tuple[str, str, str], Mean]:
    return {(str(row.method), str(row.task), str(row.metric)): row_mean(row) for row in means.itertuples(index=False)}


MEANS: Mapping[Reduction, Callable[[pd.DataFrame], dict[tuple[str, str, str], Mean]]] = {
    Reduction.macro: macro_means,
    Reduction.micro: micro_means,
}


def score_intervals(
    concepts: pd.DataFrame, reduction: Reduction, bounds: Mapping[str, Bounds]
) -> dict[tuple[str, str, str], Interval]:
    """Return 95% intervals, over concepts, of the means of `MEANS[reduction]`; None over fewer than three concepts.

    `concepts` as by `concept_means`, `bounds` by metric.
    """
    return {
        (str(method), str(task), str(metric)): interval(*ratio(rows, reduction), bounds.get(str(metric), UNBOUNDED))
        for (method, task, metric), rows in concepts.groupby(CELL, observed=True)
    }


def ratio(concepts: pd.DataFrame, reduction: Reduction) -> tuple[Floats, Floats]:
    """Return numerators and denominators (concepts,); the ratio of their sums is the mean.

    Each concept's mean is in column value, its number of samples in column n. Concepts without samples are left out.
    """
    counted = concepts[concepts["n"] > 0]
    means, counts = counted["value"].to_numpy(np.float64), counted["n"].to_numpy(np.float64)
    return (means, np.ones_like(means)) if reduction == "macro" else (means * counts, counts)


def ceiling_means(ceilings: pd.DataFrame) -> dict[str, Mean]:
    """Return the mean over concepts, by metric. `n` counts the concepts that have a ceiling."""
    means = reduce_groups(ceilings, ["metric"], "value")
    return {str(row.metric): row_mean(row) for row in means.itertuples(index=False)}


def cost_means(costs: pd.DataFrame, cost: CostColumn) -> dict[str, Mean]:
    """Return a cost reduced over concepts, by method, in the column's unit. `n` counts concepts."""
    means = reduce_groups(costs, ["method"], cost.field, cost.reduction)
    means["value"] /= cost.unit
    return {str(row.method): row_mean(row) for row in means.itertuples(index=False)}


def protocols(scores: pd.DataFrame, metrics: Mapping[str, MetricHeading]) -> dict[str, str]:
    """Return the protocol digest of every metric that has scores.

    Raises RunError for a metric with more than one: such numbers can't stand in one column.
    """
    found = scores[["metric", "protocol", "method"]].drop_duplicates().sort_values(["protocol", "method"])
    digests = {}
    for metric in metrics:
        methods = found[found["metric"] == metric].groupby("protocol", observed=True)["method"].agg(list)
        if len(methods) > 1:
            listed = "; ".join(f"{digest} ({', '.join(labels)})" for digest, labels in methods.items())
            raise RunError(
                f"{metric}: scores of different protocols can't share a column: {listed}; "
                "score all methods with one protocol, or use another run.name="
            )
        if len(methods) == 1:
            digests[metric] = str(methods.index[0])
    return digests


def remarks(scores: pd.DataFrame, metrics: Mapping[str, MetricHeading]) -> tuple[str, ...]:
    """Return a sentence for every metric with noted scores: their number by method, and the commonest note."""
    noted = scores.loc[scores["note"] != "", ["metric", "method", "note"]].astype(str)
    sentences = []
    for metric, heading in metrics.items():
        own = noted[noted["metric"] == metric]
        if own.empty:
            continue
        counts = ", ".join(f"{method} {count:,}" for method, count in own.groupby("method").size().items())
        commonest = own["note"].value_counts().sort_index().idxmax()
        sentences.append(f"{heading.title}: scores with a note: {counts}; most often “{commonest}”.")
    return tuple(sentences)


def reduce_groups(table: pd.DataFrame, keys: list[str], field: str, reduction: str = "mean") -> pd.DataFrame:
    """Group a table: columns `keys`, value (`field` reduced) and n (number of values, NaN left out).

    A mean is the exact one, rounded: the same to the last bit in any order of the rows and next to any other rows.
    Metrics are grouped one at a time, since grouping millions of rows takes several times their own memory.
    """
    parts = [rows for _, rows in table.groupby("metric", observed=True)] if "metric" in keys else []
    return pd.concat([_reduced(rows, keys, field, reduction) for rows in parts or [table]]).sort_values(
        keys, ignore_index=True
    )


def _reduced(table: pd.DataFrame, keys: list[str], field: str, reduction: str) -> pd.DataFrame:
    groups = table[[*keys, field]].groupby(keys, observed=True, as_index=False)
    return groups.agg(value=(field, _exact_mean if reduction == "mean" else reduction), n=(field, "count"))


def _exact_mean(values: "pd.Series[float]") -> float:
    present = values.dropna()
    return math.fsum(present) / len(present) if len(present) else math.nan


def row_mean(row: Any) -> Mean:
    """Return the mean in a row of `reduce_groups`."""
    return Mean(float(row.value), int(row.n))
