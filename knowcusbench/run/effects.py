"""What adaptations do to everything else, as a run measured it."""

from collections.abc import Iterator, Sequence

import pandas as pd

from knowcusbench.analysis.effects import EffectsInput
from knowcusbench.benchmark.types import Concept, Task
from knowcusbench.run.layout import INTERFERENCE, PICTURES, TEXT
from knowcusbench.run.plan import counts
from knowcusbench.run.records import RunRecords
from knowcusbench.run.scores import concatenated

MEASURES = ["method", "concept", "item", "probe", "text", "measure", "value", "protocol"]


def measured_effects(records: RunRecords) -> pd.DataFrame:
    """Return what was measured of every method's adaptations, a row per text or picture and measure.

    Its columns are `MEASURES`: `item` is the knowledge item that an adaptation is for, -1 for one of all items.
    """
    return concatenated(_measures(records, records.store.labels()), MEASURES)


def effects_input(records: RunRecords, concepts: Sequence[Concept], wanted: str) -> EffectsInput | None:
    """Return the measured effects of every method of the run; None if nothing was measured.

    Args:
        records: of the run.
        concepts: of the run, which say what item a text is about.
        wanted: the protocol whose measures count, if there are any; else that of the most methods.
    """
    measures = measured_effects(records)
    if measures.empty:
        return None
    items = pd.Series(dict(_items(concepts)), dtype="float64")
    texts = pd.MultiIndex.from_frame(measures[["concept", "text"]])
    measures = measures.assign(knowledge=items.reindex(texts).to_numpy())
    retrieved = concatenated(
        _retrieved(records, records.store.labels()),
        ["method", "applied", "concept", "knowledge", "nearest", "protocol"],
    )
    methods = measures.groupby("protocol")["method"].nunique()
    protocol = wanted if wanted in methods else str(methods.idxmax())
    path = records.store.ceilings(INTERFERENCE)
    references = records.table(path) if path.exists() else pd.DataFrame(columns=["concept", "value", "protocol"])
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
        run=records.store.root.name,
        methods={label: record.role for label, record in records.methods.items()},
        concepts=tuple(records.concepts),
        measures=measures[measures["protocol"] == protocol],
        retrieved=retrieved[retrieved["protocol"] == protocol],
        pictures=counts(records.plan)[Task.RECONSTRUCTION],
        references=references[references["protocol"] == protocol],
        protocol=protocol,
        remarks=tuple(remarks),
    )


def _measures(records: RunRecords, labels: list[str]) -> Iterator[pd.DataFrame]:
    for label in labels:
        for concept in records.concepts:
            for item, directory in records.parts(records.store.effects, label, concept, TEXT, PICTURES):
                for name in (TEXT, PICTURES):
                    table = records.table(directory / name)
                    yield table.assign(
                        method=label,
                        concept=concept,
                        item=-1 if item is None else item,
                    )


def _items(concepts: Sequence[Concept]) -> Iterator[tuple[tuple[str, str], int]]:
    """Yield the item that a text is about, by concept and text."""
    for concept in concepts:
        for number, knowledge in enumerate(concept.knowledge):
            for text in (knowledge.question, *knowledge.rephrasings, knowledge.phrase):
                yield (concept.name, text), number


def _retrieved(records: RunRecords, labels: list[str]) -> Iterator[pd.DataFrame]:
    for label in labels:
        path = records.store.interference(label)
        if path.exists():
            yield records.table(path).assign(method=label)
