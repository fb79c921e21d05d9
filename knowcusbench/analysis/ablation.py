"""Ablations: the effect of one setting's values on every metric, reduced from the samples of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from knowcusbench.analysis.columns import COSTS, metric_columns
from knowcusbench.analysis.effects import SUMMARY_COLUMNS, SUMMARY_VALUES, EffectsInput, summary_values
from knowcusbench.analysis.types import Column, MetricHeading
from knowcusbench.benchmark.types import Task

SCORED = ["method", "task", "concept", "metric", "value", "knowledge"]
PER_CONCEPT = ["label", "setting", "concept", "column", "value", "n"]
SUMMARY = ["label", "column", "mean", "deviation", "concepts"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A method of the run with one value of the setting.

    Attributes:
        label: label of the method.
        value: a number, or a name.
        taught: only samples of the first `taught` knowledge items count; all if None.
    """

    label: str
    value: float | str
    taught: int | None = None


@dataclass(frozen=True, kw_only=True)
class AblationInput:
    """The results of a run that compares values of a setting.

    Attributes:
        name: name of the ablation ("eta").
        title: the setting, in words.
        scale: scale of the values' axis.
        settings: in the order of the values.
        controls: labels of the run's other methods.
        metrics: metrics to show.
        scores: one row per sample and metric, columns `SCORED`; `method` is the label, `knowledge` the item's index.
        effects: side effects of the methods; None if they were not measured.
        costs: as in `ReportInput`.
    """

    name: str
    title: str
    scale: Literal["log", "category"]
    settings: Sequence[Setting]
    controls: Sequence[str]
    metrics: Mapping[str, MetricHeading]
    scores: pd.DataFrame
    effects: EffectsInput | None
    costs: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """The result of an ablation.

    Attributes:
        name, title, scale, settings, controls: as in `AblationInput`.
        columns: metrics by task, then effects, then costs.
        per_concept: columns `PER_CONCEPT`: the mean over `n` samples or texts of a concept, or its cost, in the units
            of `column` (the key of a column). `setting` is the value, empty for controls.
        summary: columns `SUMMARY`: mean and standard deviation (n - 1; NaN for one concept) over concepts.
    """

    name: str
    title: str
    scale: Literal["log", "category"]
    settings: Sequence[Setting]
    controls: Sequence[str]
    columns: Sequence[Column]
    per_concept: pd.DataFrame
    summary: pd.DataFrame


def build_ablation(inputs: AblationInput) -> Ablation:
    """Reduce samples to concepts, and concepts to means. Every concept counts once; peak memory, too, is a mean."""
    tasks = [task for task in Task if task.value in set(inputs.scores["task"])]
    metrics = metric_columns(inputs.metrics, tasks)
    rows = _scored(inputs, metrics)
    if inputs.effects:
        rows = pd.concat([rows, summary_values(inputs.effects)], ignore_index=True)
    per_concept = pd.concat([_by_concept(inputs, rows), _paid(inputs)], ignore_index=True)
    values: dict[str, float | str] = {setting.label: setting.value for setting in inputs.settings}
    per_concept["setting"] = per_concept["label"].map(values).fillna("")
    groups = per_concept.groupby(["label", "column"], sort=False)["value"]
    return Ablation(
        name=inputs.name,
        title=inputs.title,
        scale=inputs.scale,
        settings=inputs.settings,
        controls=inputs.controls,
        columns=(*metrics, *(SUMMARY_COLUMNS if inputs.effects else ()), *(cost.column for cost in COSTS)),
        per_concept=per_concept[PER_CONCEPT],
        summary=groups.agg(mean="mean", deviation="std", concepts="count").reset_index()[SUMMARY],
    )


def _scored(inputs: AblationInput, columns: Sequence[Column]) -> pd.DataFrame:
    """Return the scores of `columns` in the form of `summary_values`."""
    keys = {(column.task, column.metric): column.key for column in columns}
    found = [keys.get(pair, "") for pair in zip(inputs.scores["task"], inputs.scores["metric"], strict=True)]
    return inputs.scores.assign(column=found).query("column != ''")[SUMMARY_VALUES]


def _by_concept(inputs: AblationInput, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over each concept's rows that count, by label and column."""
    rows = rows.rename(columns={"method": "label"})
    taught = rows["label"].map({setting.label: setting.taught for setting in inputs.settings}).astype("float")
    rows = rows[taught.isna() | rows["knowledge"].isna() | (rows["knowledge"] < taught)]
    # Sorted first: the mean is the same to the last bit in any order of the rows.
    groups = rows.sort_values("value").groupby(["label", "concept", "column"], observed=True)["value"]
    return groups.agg(value="mean", n="count").reset_index()


def _paid(inputs: AblationInput) -> pd.DataFrame:
    """Return the costs of every concept, by label and column."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "label": inputs.costs["method"],
                    "concept": inputs.costs["concept"],
                    "column": cost.column.key,
                    "value": inputs.costs[cost.field] / cost.unit,
                    "n": 1,
                }
            ).dropna(subset="value")
            for cost in COSTS
        ],
        ignore_index=True,
    )
