"""The tables of papers, read from the CSV files of `results/published/`.

One row is one number: method, condition (the varied setting of a table, `knowledge_items=3`), task (empty if the number
belongs to no task, or the paper does not say), metric, value, approximate (the paper says "~27 min"), and source. Times
are in seconds.
"""

import csv
import io
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files

from knowcusbench.benchmark.types import Task


class PublishedTable(StrEnum):
    """The available tables, by file name."""

    MAIN = "mokus_table1"
    KNOWLEDGE_ITEMS = "mokus_table2"
    ETA = "mokus_eta"


@dataclass(frozen=True, kw_only=True)
class PublishedValue:
    """One number of a paper.

    Attributes:
        method: in the paper's spelling ("Naive-DB"); "base" is the backbone without customisation.
        condition: the varied setting of the table, empty if there is none.
        task: None if the number belongs to no task.
        metric: key of a metric ("clip_i"), or of a cost ("train_seconds").
        value: on the scale of the metric.
        approximate: whether the paper gives it as "about".
        source: paper and table.
    """

    method: str
    condition: str
    task: Task | None
    metric: str
    value: float
    approximate: bool
    source: str


def load_published(table: PublishedTable) -> tuple[PublishedValue, ...]:
    """Load the numbers of a table, in the order of the paper."""
    text = files("knowcusbench.published").joinpath(f"{table}.csv").read_text(encoding="utf-8")
    return tuple(
        PublishedValue(
            method=row["method"],
            condition=row["condition"],
            task=Task(row["task"]) if row["task"] else None,
            metric=row["metric"],
            value=float(row["value"]),
            approximate=row["approximate"] == "true",
            source=row["source"],
        )
        for row in csv.DictReader(io.StringIO(text, newline=""))
    )
