"""The scores, floors, ceilings and costs of a run as tables."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import union_categoricals

from knowcusbench.adapters.peft_files import RECORD_FILE, load_record
from knowcusbench.adapters.types import Cost
from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.analysis.types import FLOORS, ReportInput
from knowcusbench.errors import ImageError
from knowcusbench.run.layout import GENERATE
from knowcusbench.run.plan import counts
from knowcusbench.run.records import RunRecords
from knowcusbench.storage.digests import stamp_of
from knowcusbench.storage.files import modified, modified_in
from knowcusbench.storage.tables import read_lines, read_table

SAMPLE = ["task", "concept", "knowledge_aspect", "prompt_aspect"]
"""Columns of the plan by which scores are grouped."""


def report_input(records: RunRecords) -> ReportInput:
    """Return the results of every method in the run directory."""
    labels = records.store.labels()
    planned = counts(records.plan)
    return ReportInput(
        run=records.store.root.name,
        methods={label: record.role for label, record in records.methods.items()},
        metrics=dict(records.metrics),
        concepts=len(records.concepts),
        scores=concatenated(
            of_samples(records, labels, records.store.scores),
            ["sample_id", "method", *SAMPLE, "metric", "value", "protocol", "note"],
        ),
        expected=pd.DataFrame(
            [(label, task, count) for label in labels for task, count in planned.items()],
            columns=["method", "task", "planned"],
        ),
        costs=pd.DataFrame(
            _costs(records, labels),
            columns=["method", "concept", "seconds", "peak_memory_bytes", "adapter_bytes", "image_seconds"],
        ),
        ceilings=concatenated(_ceilings(records), ["metric", "concept", "value"]),
        floors=concatenated(of_samples(records, labels, records.store.floors), FLOORS),
        published=load_published(PublishedTable.MAIN),
        gone={label: count for label in labels if (count := len(set(records.plan["id"]) - records.drawn(label)))},
        altered={label: count for label in labels if (count := len(altered_images(records, label)))},
        reduction=records.reduction,
        truth=records.truth,
    )


def stage_costs(records: RunRecords) -> pd.DataFrame:
    """What every method spent on each concept, stage by stage."""
    columns = ["method", "concept", "stage", "seconds", "peak_memory_bytes", "images", "images_per_second"]
    return pd.DataFrame(_stage_costs(records, records.store.labels()), columns=columns)


def of_samples(records: RunRecords, labels: list[str], place: Callable[[str, str], Path]) -> Iterator[pd.DataFrame]:
    """Yield the table at `place` of each method and metric, one row per sample, with the plan's columns of the samples.

    All text is categorical, so that a million rows stay small.
    """
    samples = records.plan[[*SAMPLE, "knowledge"]]
    ids: pd.CategoricalDtype[str] = pd.CategoricalDtype(records.plan["id"])
    for label in labels:
        for name in records.metrics:
            path = place(label, name)
            if path.exists():
                table = records.table(path)
                rows = ids.categories.get_indexer(pd.Index(table["sample_id"]))
                table, rows = table[rows >= 0], rows[rows >= 0]
                yield samples.take(rows).assign(
                    sample_id=pd.Categorical.from_codes(rows, dtype=ids),
                    method=pd.Categorical.from_codes([0] * len(table), pd.Index([label])),
                    metric=pd.Categorical.from_codes([0] * len(table), pd.Index([name])),
                    value=table["value"].to_numpy(),
                    **{name: table[name].astype("category").array for name in ("protocol", "note") if name in table},
                )


def _ceilings(records: RunRecords) -> Iterator[pd.DataFrame]:
    for name in records.metrics:
        path = records.store.ceilings(name)
        if path.exists():
            yield records.table(path).assign(metric=name)


def concatenated(tables: Iterator[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Concatenate tables. A column that is categorical in all of them stays categorical."""
    parts = [table[columns] for table in tables]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.DataFrame({name: _column([part[name] for part in parts]) for name in columns})


def _column(parts: "list[pd.Series[Any]]") -> "pd.Series[Any]":
    if all(isinstance(part.dtype, pd.CategoricalDtype) for part in parts):
        return pd.Series(union_categoricals(parts))
    return pd.concat(parts, ignore_index=True)


def _costs(records: RunRecords, labels: list[str]) -> Iterator[tuple[str, str, float, int, int, float]]:
    """Yield, per method and concept, the total cost of the adaptations and the seconds of drawing one image.

    The total is over all knowledge items if each has its own adaptation. A concept with some adaptations missing is
    left out.
    """
    for label in labels:
        drawn = _drawn(records, label)
        image_seconds = drawn["seconds"] / drawn["images"]
        for concept in records.concepts:
            if made := _adaptations(records, label, concept):
                cost = _cost(made)
                yield (
                    label,
                    concept,
                    cost.total_seconds,
                    cost.peak_memory_bytes,
                    sum(adaptation["bytes"] for adaptation in made),
                    image_seconds.get(concept, math.nan),
                )


def _stage_costs(
    records: RunRecords, labels: list[str]
) -> Iterator[tuple[str, str, str, float, int, int | None, float | None]]:
    """Yield, per method and concept, the cost of each stage of the adaptation and of drawing.

    The columns are seconds, peak memory (one value for all stages of the adaptation), and for drawing the images and
    the images per second.
    """
    for label in labels:
        for concept in records.concepts:
            cost = _cost(_adaptations(records, label, concept))
            for stage, seconds in cost.seconds.items():
                yield label, concept, stage, seconds, cost.peak_memory_bytes, None, None
        for name, images, seconds, peak in _drawn(records, label).itertuples():
            yield label, name, GENERATE, seconds, peak, images, images / seconds


def _adaptations(records: RunRecords, label: str, concept: str) -> list[dict[str, Any]]:
    """What is recorded of a method's adaptations to a concept."""
    return [load_record(path) for _, path in records.parts(records.store.adaptation, label, concept, RECORD_FILE)]


def _cost(made: list[dict[str, Any]]) -> Cost:
    return sum((Cost(**adaptation["cost"]) for adaptation in made), Cost())


def _drawn(records: RunRecords, label: str) -> pd.DataFrame:
    """Return images, seconds and peak memory of all drawing by concept."""
    lines = [line for line in read_lines(records.store.journal(label, "").parent) if line["stage"] == GENERATE]
    table = pd.DataFrame(lines, columns=["concept", "images", "seconds", "peak_memory_bytes"])
    found = table.groupby("concept").agg({"images": "sum", "seconds": "sum", "peak_memory_bytes": "max"})
    return found[found["images"] > 0].astype({"images": int})


def altered_images(records: RunRecords, label: str) -> set[str]:
    """Return the ids of a method's images that changed after scoring: damaged, or drawn again.

    Only files that are younger than their scores are read.
    """
    directories = {concept: records.store.image(label, concept, "").parent for concept in records.concepts}
    times = {concept: modified_in(directory) for concept, directory in directories.items()}
    altered: set[str] = set()
    for path in (records.store.scores(label, name) for name in records.metrics):
        written = modified(path)
        younger = {
            name.removesuffix(".png"): directories[concept] / name
            for concept, found in times.items()
            for name, time in found.items()
            if written and written < time < math.inf
        }
        if younger:
            table = read_table(path).set_index("sample_id")["stamp"]
            known = younger.keys() & table.index
            altered |= {sample for sample in known if _is_altered(younger[sample], table[sample])}
    return altered


def _is_altered(path: Path, stamp: str) -> bool:
    try:
        return stamp_of(path) != stamp
    except ImageError:
        return True
