"""Tables of a run's scores, costs and effects, for all its methods."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import union_categoricals

from knowcusbench.adaptation.method import Role
from knowcusbench.adapters.peft_files import RECORD_FILE, load_record
from knowcusbench.adapters.types import Cost
from knowcusbench.analysis.ablation import AblationInput, Setting
from knowcusbench.analysis.effects import EffectsInput
from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.analysis.types import FLOORS, MetricHeading, ReportInput
from knowcusbench.benchmark.types import Concept, Task
from knowcusbench.run.jobs import existing_images
from knowcusbench.run.layout import GENERATE, INTERFERENCE, PICTURES, TEXT
from knowcusbench.run.plan import counts
from knowcusbench.run.recorded import read_recorded
from knowcusbench.run.run import Run
from knowcusbench.stages.score import altered_images
from knowcusbench.storage.tables import read_lines

SAMPLE = ["task", "concept", "knowledge_aspect", "prompt_aspect"]
"""Columns of the plan by which scores are grouped."""


SWEPT = re.compile(r"(?P<method>[^,=]+),(?P<key>[\w.]+)=(?P<value>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)")
"""The label of a method with one number set by a sweep. The number has no sign, since the axis is logarithmic."""


def report_input(run: Run) -> ReportInput:
    """Return the results of every method in the run directory."""
    labels = run.store.labels()
    planned = counts(run.plan)
    return ReportInput(
        run=run.store.root.name,
        methods={label: record.role for label, record in run.methods.items()},
        metrics={name: MetricHeading.of(metric) for name, metric in run.metrics.items()},
        concepts=len(run.concepts),
        scores=_concatenated(
            _of_samples(run, labels, run.store.scores),
            ["sample_id", "method", *SAMPLE, "metric", "value", "protocol", "note"],
        ),
        expected=pd.DataFrame(
            [(label, task, count) for label in labels for task, count in planned.items()],
            columns=["method", "task", "planned"],
        ),
        costs=pd.DataFrame(
            _costs(run, labels),
            columns=["method", "concept", "seconds", "peak_memory_bytes", "adapter_bytes", "image_seconds"],
        ),
        ceilings=_concatenated(_ceilings(run), ["metric", "concept", "value"]),
        floors=_concatenated(_of_samples(run, labels, run.store.floors), FLOORS),
        published=load_published(PublishedTable.MAIN),
        gone={label: count for label in labels if (count := len(set(run.plan["id"]) - existing_images(run, label)))},
        altered={label: count for label in labels if (count := len(altered_images(run, label)))},
        reduction=run.reduction,
        truth=run.truth,
    )


def stage_costs(run: Run) -> pd.DataFrame:
    """Return the costs of every method on each concept, by stage."""
    columns = ["method", "concept", "stage", "seconds", "peak_memory_bytes", "images", "images_per_second"]
    return pd.DataFrame(_stage_costs(run, run.store.labels()), columns=columns)


def effects_input(run: Run) -> EffectsInput | None:
    """Return the measured effects of every method in the run directory; None if nothing was measured."""
    labels = run.store.labels()
    measures = _concatenated(
        _measures(run, labels), ["method", "concept", "probe", "measure", "value", "knowledge", "protocol", "item"]
    )
    if measures.empty:
        return None
    retrieved = _concatenated(
        _retrieved(run, labels), ["method", "applied", "concept", "knowledge", "nearest", "protocol"]
    )
    methods = measures.groupby("protocol")["method"].nunique()
    protocol = run.effects.protocol if run.effects.protocol in methods else str(methods.idxmax())
    path = run.store.ceilings(INTERFERENCE)
    references = run.table(path) if path.exists() else pd.DataFrame(columns=["concept", "value", "protocol"])
    left_out = sorted(set(measures.loc[measures["protocol"] != protocol, "method"]))
    by_item = measures[measures["item"] >= 0].drop_duplicates(["method", "concept", "item"]).groupby("method").size()
    remarks = [
        f"{label}: measured by another protocol and left out; `knowcusbench effects` measures it again."
        for label in left_out
    ] + [
        f"{label}: an adaptation for every knowledge item, measured on its own item; together, all {count} are applied."
        for label, count in by_item.items()
    ]
    return EffectsInput(
        run=run.store.root.name,
        methods={label: record.role for label, record in run.methods.items()},
        concepts=tuple(concept.name for concept in run.concepts),
        measures=measures[measures["protocol"] == protocol],
        retrieved=retrieved[retrieved["protocol"] == protocol],
        pictures=counts(run.plan)[Task.RECONSTRUCTION],
        references=references[references["protocol"] == protocol],
        protocol=protocol,
        remarks=tuple(remarks),
    )


def _measures(run: Run, labels: list[str]) -> Iterator[pd.DataFrame]:
    for label in labels:
        for concept in run.concepts:
            own = {
                text: number
                for number, knowledge in enumerate(concept.knowledge)
                for text in (knowledge.question, *knowledge.rephrasings, knowledge.phrase)
            }
            for item, directory in _parts(run.store.effects, label, concept, TEXT, PICTURES):
                for name in (TEXT, PICTURES):
                    table = run.table(directory / name)
                    yield table.assign(
                        method=label,
                        concept=concept.name,
                        knowledge=table["text"].map(own),
                        item=-1 if item is None else item,
                    )


def _retrieved(run: Run, labels: list[str]) -> Iterator[pd.DataFrame]:
    for label in labels:
        path = run.store.interference(label)
        if path.exists():
            yield run.table(path).assign(method=label)


def _parts(
    place: Callable[[str, str, int | None], Path], label: str, concept: Concept, *files: str
) -> list[tuple[int | None, Path]]:
    """Return the directories of a method's results for a concept: one, or one per knowledge item.

    Empty if `files` are missing in any of them.
    """
    whole = [(None, place(label, concept.name, None))]
    items = [(number, place(label, concept.name, number)) for number in range(len(concept.knowledge))]
    for parts in (whole, items):
        if all((directory / file).exists() for _, directory in parts for file in files):
            return list(parts)
    return []


def ablation_input(run: Run, inputs: ReportInput, measured: EffectsInput | None) -> AblationInput | None:
    """Return the results of a run that compares values of a setting; None for any other run."""
    configs = {label: read_recorded(run.store, label)[0] for label in inputs.methods}
    compared = {label: config["ablation"] for label, config in configs.items() if config.get("ablation")}
    compared = compared or swept(list(inputs.methods))
    if not compared:
        return None
    first = next(iter(compared.values()))
    return AblationInput(
        name=first["name"],
        title=first["title"],
        scale=first["scale"],
        settings=_in_order(
            [Setting(label=label, value=node["value"], taught=node["taught"]) for label, node in compared.items()],
            list(first["values"]),
        ),
        controls=[label for label, role in inputs.methods.items() if label not in compared and role is not Role.METHOD],
        metrics=inputs.metrics,
        scores=_concatenated(
            _of_samples(run, list(inputs.methods), run.store.scores),
            ["method", "task", "concept", "metric", "value", "knowledge"],
        ),
        effects=measured,
        costs=inputs.costs,
    )


def swept(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the values that a plain sweep over a number, `-m recipe.ultraedit.eta=1e-3,1e-2`, compares.

    They have the form of an ablation's configuration, by label. Empty if the labels show no such sweep, or several.
    """
    found = {label: match for label in labels if (match := SWEPT.fullmatch(label))}
    values = {label: float(match["value"]) for label, match in found.items()}
    sweeps = {(match["method"], match["key"]) for match in found.values()}
    if len(sweeps) != 1 or len(values) < 2 or min(values.values()) == 0:
        return {}
    ((_, key),) = sweeps
    # As in the ablation, items that were not taught do not count.
    taught = {label: int(value) if key == "method.items" else None for label, value in values.items()}
    shared = {"name": key, "title": key, "scale": "log", "values": sorted(values.values())}
    return {label: shared | {"value": value, "taught": taught[label]} for label, value in values.items()}


def _in_order(settings: list[Setting], values: list[float | str]) -> list[Setting]:
    """Return settings in order: numbers by size, names as listed, then values that only a longer list of a rerun
    has."""
    numbers = sorted(value for value in {setting.value for setting in settings} if not isinstance(value, str))
    order = [*numbers, *values, *(setting.value for setting in settings)]
    return sorted(settings, key=lambda setting: order.index(setting.value))


def _of_samples(run: Run, labels: list[str], place: Callable[[str, str], Path]) -> Iterator[pd.DataFrame]:
    """Yield the table at `place` of each method and metric, one row per sample, with the plan's columns of the samples.

    All text is categorical, so that a million rows stay small.
    """
    samples = run.plan[[*SAMPLE, "knowledge"]]
    ids: pd.CategoricalDtype[str] = pd.CategoricalDtype(run.plan["id"])
    for label in labels:
        for name in run.metrics:
            path = place(label, name)
            if path.exists():
                table = run.table(path)
                rows = ids.categories.get_indexer(pd.Index(table["sample_id"]))
                table, rows = table[rows >= 0], rows[rows >= 0]
                yield samples.take(rows).assign(
                    sample_id=pd.Categorical.from_codes(rows, dtype=ids),
                    method=pd.Categorical.from_codes([0] * len(table), pd.Index([label])),
                    metric=pd.Categorical.from_codes([0] * len(table), pd.Index([name])),
                    value=table["value"].to_numpy(),
                    **{name: table[name].astype("category").array for name in ("protocol", "note") if name in table},
                )


def _ceilings(run: Run) -> Iterator[pd.DataFrame]:
    for name in run.metrics:
        path = run.store.ceilings(name)
        if path.exists():
            yield run.table(path).assign(metric=name)


def _concatenated(tables: Iterator[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Concatenate tables. A column that is categorical in all of them stays categorical."""
    parts = [table[columns] for table in tables]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.DataFrame({name: _column([part[name] for part in parts]) for name in columns})


def _column(parts: "list[pd.Series[Any]]") -> "pd.Series[Any]":
    if all(isinstance(part.dtype, pd.CategoricalDtype) for part in parts):
        return pd.Series(union_categoricals(parts))
    return pd.concat(parts, ignore_index=True)


def _costs(run: Run, labels: list[str]) -> Iterator[tuple[str, str, float, int, int, float]]:
    """Yield, per method and concept, the total cost of the adaptations and the seconds of drawing one image.

    The total is over all knowledge items if each has its own adaptation. A concept with some adaptations missing is
    left out.
    """
    for label in labels:
        drawn = _drawn(run, label)
        image_seconds = drawn["seconds"] / drawn["images"]
        for concept in run.concepts:
            if records := _records(run, label, concept):
                cost = _cost(records)
                yield (
                    label,
                    concept.name,
                    cost.total_seconds,
                    cost.peak_memory_bytes,
                    sum(record["bytes"] for record in records),
                    image_seconds.get(concept.name, math.nan),
                )


def _stage_costs(run: Run, labels: list[str]) -> Iterator[tuple[str, str, str, float, int, int | None, float | None]]:
    """Yield, per method and concept, the cost of each stage of the adaptation and of drawing.

    The columns are seconds, peak memory (one value for all stages of the adaptation), and for drawing the images and
    the images per second.
    """
    for label in labels:
        for concept in run.concepts:
            cost = _cost(_records(run, label, concept))
            for stage, seconds in cost.seconds.items():
                yield label, concept.name, stage, seconds, cost.peak_memory_bytes, None, None
        for name, images, seconds, peak in _drawn(run, label).itertuples():
            yield label, name, GENERATE, seconds, peak, images, images / seconds


def _records(run: Run, label: str, concept: Concept) -> list[dict[str, Any]]:
    return [load_record(path) for _, path in _parts(run.store.adaptation, label, concept, RECORD_FILE)]


def _cost(records: list[dict[str, Any]]) -> Cost:
    return sum((Cost(**record["cost"]) for record in records), Cost())


def _drawn(run: Run, label: str) -> pd.DataFrame:
    """Return images, seconds and peak memory of all drawing by concept."""
    lines = [line for line in read_lines(run.store.journal(label, "").parent) if line["stage"] == GENERATE]
    table = pd.DataFrame(lines, columns=["concept", "images", "seconds", "peak_memory_bytes"])
    found = table.groupby("concept").agg({"images": "sum", "seconds": "sum", "peak_memory_bytes": "max"})
    return found[found["images"] > 0].astype({"images": int})
