"""Statistics of a run's scores: differences between methods, breakdowns, and the stability of ranks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from knowcusbench.adaptation.method import Role
from knowcusbench.analysis.columns import score_columns
from knowcusbench.analysis.reduction import CELL, ratio, reduce_groups
from knowcusbench.analysis.resampling import (
    FEWEST,
    drawn_means,
    holm,
    interval,
    mean_kendall,
    rank_shares,
    sign_flip_p_values,
)
from knowcusbench.analysis.types import Column, ReportInput
from knowcusbench.metrics.bounds import Bounds
from knowcusbench.metrics.protocol import Reduction

BREAKDOWN_BY = ("knowledge_aspect", "prompt_aspect", "concept")

COLUMN = ["task", "metric"]
MEAN = ["mean", "low", "high", "samples", "concepts"]
DIFFERENCES = [*COLUMN, "method", "other", *MEAN, "p", "p_holm"]
BREAKDOWN = ["by", "level", *COLUMN, "method", *MEAN]
RANKS = [*COLUMN, "method", "rank", "share", "kendall", "samples", "concepts"]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Conclusions about a run's methods.

    Everything is resampled by whole concepts (see `resampling`), and reduced like the leaderboard.

    Attributes:
        columns: score columns of the leaderboard.
        differences: one row per column and pair of methods that share samples; columns `DIFFERENCES`: mean of `method`
            minus `other` over the samples that both have, the ends of its 95% interval (NaN over fewer than three
            concepts), its p-value by sign flips, and the same corrected for all pairs of the column (Holm).
        breakdown: one row per method or control, column and level of `BREAKDOWN_BY`; columns `BREAKDOWN`.
        ranks: one row per column, method and rank; columns `RANKS`: the share of bootstrap draws in which the method
            has the rank, and the column's mean Kendall tau-b between the ranking of a draw and that of all concepts.
            Over the samples that all methods have; no rows for a column with such samples of fewer than three concepts,
            or with fewer than two methods.
    """

    columns: tuple[Column, ...]
    differences: pd.DataFrame
    breakdown: pd.DataFrame
    ranks: pd.DataFrame


def build_statistics(inputs: ReportInput) -> Statistics:
    """Compare the methods of a run.

    Controls only have a breakdown. Differences and ranks are among methods, as best and second are: every further pair
    makes each difference harder to prove.
    """
    columns = score_columns(inputs)
    labels = [label for label, role in inputs.methods.items() if role is Role.METHOD]
    differences: list[tuple[object, ...]] = []
    ranks: list[tuple[object, ...]] = []
    for column in columns:
        wide = _by_sample(inputs.scores, column, labels)
        differences += _differences(column, wide, inputs.reduction, inputs.bounds[column.metric])
        ranks += _ranks(column, wide, inputs.reduction)
    shown = inputs.scores[inputs.scores["metric"].isin(list(inputs.metrics))]
    return Statistics(
        columns=columns,
        differences=pd.DataFrame(differences, columns=DIFFERENCES),
        breakdown=pd.DataFrame(_breakdown(shown, inputs.reduction, inputs.bounds), columns=BREAKDOWN),
        ranks=pd.DataFrame(ranks, columns=RANKS),
    )


def compared(inputs: ReportInput, method: str, other: str) -> pd.DataFrame:
    """Return the differences of two methods, controls included: those of `Statistics.differences`, whose p-values are
    not corrected, as they are of one comparison."""
    rows: list[tuple[object, ...]] = []
    for column in score_columns(inputs):
        wide = _by_sample(inputs.scores, column, [method, other])
        rows += _differences(column, wide, inputs.reduction, inputs.bounds[column.metric])
    return pd.DataFrame(rows, columns=DIFFERENCES).drop(columns="p_holm")


def _by_sample(scores: pd.DataFrame, column: Column, labels: Sequence[str]) -> pd.DataFrame:
    """Return the scores of a column: a row per concept and sample, a column per method that has any."""
    own = scores[(scores["task"] == column.task) & (scores["metric"] == column.metric)].dropna(subset="value")
    wide = own.pivot(index=["concept", "sample_id"], columns="method", values="value")
    return wide[[label for label in labels if label in wide]]


def _differences(
    column: Column, wide: pd.DataFrame, reduction: Reduction, bounds: Bounds
) -> Iterator[tuple[object, ...]]:
    pairs, flipped = [], []
    for method, other in combinations(wide.columns, 2):
        paired = (wide[method] - wide[other]).dropna()
        if len(paired):
            groups = paired.groupby(level="concept", observed=True)
            concepts = pd.DataFrame({"value": groups.mean(), "n": groups.count()})
            summary = _summary(concepts, reduction, bounds.of_differences())
            pairs.append((column.task, column.metric, method, other, *summary))
            flipped.append(pd.Series(ratio(concepts, reduction)[0], concepts.index))
    if pairs:
        p_values = sign_flip_p_values(pd.DataFrame(flipped).fillna(0).to_numpy(np.float64))
        for pair, p, p_holm in zip(pairs, p_values, holm(p_values), strict=True):
            yield *pair, p, p_holm


def _ranks(column: Column, wide: pd.DataFrame, reduction: Reduction) -> Iterator[tuple[object, ...]]:
    shared = wide.dropna().groupby(level="concept", observed=True)
    means, sizes = np.asarray(shared.mean(), np.float64), np.asarray(shared.size(), np.float64)
    if len(wide.columns) < 2 or len(sizes) < FEWEST:
        return
    weights = np.ones_like(sizes) if reduction == "macro" else sizes
    drawn = drawn_means(means * weights[:, None], weights)
    shares = rank_shares(drawn, higher_is_better=column.higher_is_better is not False)
    kendall = mean_kendall(drawn, np.average(means, axis=0, weights=weights))
    for method, of_method in zip(wide.columns, shares, strict=True):
        for rank, share in enumerate(of_method, start=1):
            yield column.task, column.metric, method, rank, share, kendall, int(sizes.sum()), len(sizes)


def _breakdown(
    scores: pd.DataFrame, reduction: Reduction, bounds: Mapping[str, Bounds]
) -> Iterator[tuple[object, ...]]:
    # All levels at once: the remaining sums are small.
    parts = reduce_groups(scores, [*CELL, *BREAKDOWN_BY], "value")
    parts["total"] = parts["value"] * parts["n"]
    for by in BREAKDOWN_BY:
        keys = list(dict.fromkeys([*CELL, by, "concept"]))
        concepts = parts[parts["n"] > 0].groupby(keys, observed=True, as_index=False)[["total", "n"]].sum()
        concepts["value"] = concepts["total"] / concepts["n"]
        for (method, task, metric, level), group in concepts.groupby([*CELL, by], observed=True):
            yield by, level, task, metric, method, *_summary(group, reduction, bounds[str(metric)])


def _summary(concepts: pd.DataFrame, reduction: Reduction, bounds: Bounds) -> tuple[float, float, float, int, int]:
    """Return `MEAN` of concepts with a mean (value) over some samples (n)."""
    numerators, denominators = ratio(concepts, reduction)
    low, high = interval(numerators, denominators, bounds) or (math.nan, math.nan)
    return numerators.sum() / denominators.sum(), low, high, int(concepts["n"].sum()), len(concepts)
