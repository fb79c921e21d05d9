"""The score stage: every metric on every image, with floors and real-image ceilings."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from knowcusbench.benchmark.types import Concept
from knowcusbench.errors import ImageError
from knowcusbench.machine.progress import Progress, say
from knowcusbench.metrics.base import Metric, ScoreItem, Shuffle
from knowcusbench.metrics.ceiling import real_image_ceiling
from knowcusbench.metrics.one_colour import recorded_sample, score_sound
from knowcusbench.run.jobs import POLL, existing_images
from knowcusbench.run.plan import Sample, samples
from knowcusbench.run.room import make_room
from knowcusbench.run.run import Run
from knowcusbench.storage.claims import piece_of
from knowcusbench.storage.digests import stamp_of
from knowcusbench.storage.files import json_text, modified, modified_in
from knowcusbench.storage.tables import read_table, write_table, writing

CHUNK = 128
"""Number of images that a worker scores at a time."""

SAVED_EVERY = 10.0
"""Seconds between two writes of a table, which is the most work that a kill can cost."""

FAULTS = 5
"""Number of unscorable images that are reported one by one."""

SCORE = "score"
SCORES, FLOORS, CEILINGS = "scores", "floors", "ceilings"
"""Kinds of tables: scores, scores of mismatched pairs, and scores among references."""

COLUMNS = {
    "sample_id": "str",
    "value": "float64",
    "note": "str",
    "details": "str",
    "protocol": "str",
    "stamp": "str",
}
"""Columns of a table of scores. `details` is a JSON object of numbers, or empty. `stamp` is a digest of the image file,
and `protocol` a digest of how the score was computed."""

ItemOf = Callable[[Run, Sample], ScoreItem]


def score(run: Run, *, shown: bool = True) -> None:
    """Score the images that have no score yet or have changed since, and their mismatched pairs for the floors.

    Tables that another process scores are left to it and waited for. `shown` says whether to show progress and the
    reasons why images can't be scored.
    """
    faults: set[str] = set()
    todo = [(name, kind) for name, metric in run.metrics.items() for kind in _kinds(run, metric)]
    claims = run.store.claims(run.label, SCORE)
    with writing(), Progress(SCORE if shown else None):
        while todo:
            left = []
            for name, kind in todo:
                with claims.of(piece_of(name, kind)) as claim:
                    if claim:
                        faults |= _bring_up_to_date(run, name, kind, shown)
                    else:
                        left.append((name, kind))
            if todo := left:
                time.sleep(POLL)
    if shown:
        say_unscored(faults)


def say_unscored(faults: Collection[str]) -> None:
    """Print why images can't be scored, one line for each of the first."""
    for fault in sorted(faults)[:FAULTS]:
        say(f"knowcusbench: not scored: {fault}")
    if len(faults) > FAULTS:
        say(f"knowcusbench: not scored: {len(faults) - FAULTS} more images, which the tables' notes name")


def unscored_images(run: Run) -> set[str]:
    """Return the ids of the method's images that at least one metric could not score."""
    tables = [read_table(path) for name in run.metrics if (path := run.store.scores(run.label, name)).exists()]
    return {sample for table in tables for sample in table.loc[table["value"].isna(), "sample_id"]}


def _kinds(run: Run, metric: Metric) -> list[str]:
    """Return the kinds of tables that a metric has."""
    kinds = {SCORES: True, FLOORS: _shuffled(run, metric) is not None, CEILINGS: metric.uses_references}
    return [kind for kind, wanted in kinds.items() if wanted]


def _bring_up_to_date(run: Run, name: str, kind: str, shown: bool) -> set[str]:
    """Bring one table up to date, and return the reasons why images can't be scored."""
    metric = run.metrics[name]
    title = f"{kind} {metric.title}" if shown else None
    if kind == CEILINGS:
        _score_ceiling(run, name, metric, title)
    elif kind == SCORES:
        return _score_table(run, name, run.store.scores(run.label, name), score_item, title)
    elif shuffled := _shuffled(run, metric):
        return _score_table(run, name, run.store.floors(run.label, name), shuffled, title)
    return set()


def _score_table(run: Run, name: str, path: Path, item_of: ItemOf, title: str | None) -> set[str]:
    """Bring a table of one metric's scores up to date, and return the reasons why images can't be scored.

    Its rows are in the order of the plan, so that the same scores give the same bytes.
    """
    metric = run.metrics[name]
    done = run.table(path) if path.exists() else pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    plan = run.plan[run.plan["task"].isin([task.value for task in metric.tasks])]
    drawn = existing_images(run)
    wanted = [sample for sample in samples(plan) if sample.id in drawn]
    valid = done[_valid(run, done, wanted, modified(path)) & (done["protocol"] == run.protocols[name])]
    scored = set(valid["sample_id"])
    todo = [sample for sample in wanted if sample.id not in scored]
    order = {sample.id: place for place, sample in enumerate(wanted)}
    parts = [valid]

    def save() -> None:
        parts[:] = [pd.concat(parts, ignore_index=True)]
        table = parts[0].sort_values("sample_id", key=lambda ids: ids.map(order), ignore_index=True)
        write_table(path, table)

    if len(valid) < len(done) or not path.exists():
        save()
    saved = time.monotonic()
    jobs = [[item_of(run, sample) for sample in todo[start : start + CHUNK]] for start in range(0, len(todo), CHUNK)]
    workers = run.engine.parallelism if todo else 0
    with Progress(title, len(todo), unit="image", workers=workers) as progress:
        for rows in run.engine.run(partial(ScoreWorker, metric, run.protocols[name]), jobs):
            parts.append(rows)
            progress.update(len(rows))
            if time.monotonic() - saved > SAVED_EVERY:
                save()
                saved = time.monotonic()
    if todo:
        save()
    return set(parts[0].loc[parts[0]["value"].isna(), "note"])


def _valid(run: Run, done: pd.DataFrame, wanted: Sequence[Sample], written: float) -> pd.Series:
    """Return which rows belong to unchanged images. Only files that are younger than the table are read."""
    times = {concept.name: modified_in(run.store.image(run.label, concept.name, "").parent) for concept in run.concepts}
    known = {sample.id: sample for sample in wanted}

    def is_valid(sample_id: str, stamp: str) -> bool:
        sample = known.get(sample_id)
        if sample is None:
            return False
        path = run.store.image(run.label, sample.concept, sample.id)
        return times[sample.concept][path.name] <= written or stamp_of(path) == stamp

    flags = [is_valid(*row) for row in zip(done["sample_id"], done["stamp"], strict=True)]
    return pd.Series(flags, index=done.index, dtype=bool)


@dataclass(frozen=True)
class ScoreWorker:
    """A worker that scores images by one metric and yields rows of its table."""

    metric: Metric
    protocol: str

    def __call__(self, items: Sequence[ScoreItem]) -> Iterator[pd.DataFrame]:
        make_room([self.metric])
        scores = score_sound(self.metric, items, [image_fault(item) for item in items])
        rows = {
            "sample_id": [item.sample_id for item in items],
            "value": [score.value for score in scores],
            "note": [score.note for score in scores],
            "details": [json_text(score.details) if score.details else "" for score in scores],
            "protocol": self.protocol,
            "stamp": [stamp_of(item.image) for item in items],
        }
        yield pd.DataFrame(rows).astype(COLUMNS)


def image_fault(item: ScoreItem) -> str:
    """Return why an image can't be scored, and the remedy; empty for a sound image."""
    try:
        shown = recorded_sample(item.image)
    except ImageError as error:
        return f"{error}; remove the file, and `knowcusbench bench` draws it again"
    if shown and shown != item.sample_id:
        return (
            f"{item.image}: shows sample {shown}, as the file says; remove the file, and `knowcusbench bench` draws it "
            "again"
        )
    return ""


def score_item(run: Run, sample: Sample) -> ScoreItem:
    """Return a metric's input for a sample."""
    concept = run.concept(sample.concept)
    item = concept.knowledge[sample.knowledge]
    return ScoreItem(
        sample_id=sample.id,
        image=run.store.image(run.label, sample.concept, sample.id),
        references=concept.images,
        prompt=sample.prompt,
        class_noun=concept.class_noun,
        concept=sample.concept,
        phrase=item.phrase,
        subject=run.method.subject(concept, item),
        held_out=concept.held_out,
        gallery=run.gallery,
    )


def _shuffled(run: Run, metric: Metric) -> Callable[[Run, Sample], ScoreItem] | None:
    """Return how a metric's inputs are mismatched for its floor; None if there is only one concept or prompt.

    Each sample gets the next concept in place of its own, or the next prompt of its concept.
    """
    if metric.shuffle is Shuffle.CONCEPTS:
        if len(run.concepts) < 2:
            return None
        others = dict(zip((c.name for c in run.concepts), (*run.concepts[1:], run.concepts[0]), strict=True))
        return lambda run, sample: _with_references_of(score_item(run, sample), others[sample.concept])
    following = {
        concept.name: dict(zip(prompts, [*prompts[1:], prompts[0]], strict=True))
        for concept in run.concepts
        if (prompts := [prompt.template for prompt in concept.prompts])
    }
    if any(len(prompts) < 2 for prompts in following.values()):
        return None
    return lambda run, sample: replace(score_item(run, sample), prompt=following[sample.concept][sample.prompt])


def _with_references_of(item: ScoreItem, other: Concept) -> ScoreItem:
    return replace(
        item, references=other.images, held_out=other.held_out, concept=other.name, reference_noun=other.class_noun
    )


def _score_ceiling(run: Run, name: str, metric: Metric, title: str | None) -> None:
    """Score each concept's references against its other references."""
    path = run.store.ceilings(name)
    if path.exists() and set(run.table(path)["protocol"]) == {run.protocols[name]}:
        return
    worker = partial(CeilingWorker, metric, run.gallery)
    found: dict[str, float] = {}
    workers = run.engine.parallelism
    with Progress(title, len(run.concepts), unit="concept", workers=workers) as progress:
        for concept, value in run.engine.run(worker, run.concepts):
            found[concept] = value
            progress.update()
    # Whole or not at all: the next command retries what the engine had to leave out.
    if len(found) == len(run.concepts):
        values = [(concept.name, found[concept.name], run.protocols[name]) for concept in run.concepts]
        write_table(path, pd.DataFrame(values, columns=["concept", "value", "protocol"]))


@dataclass(frozen=True)
class CeilingWorker:
    """A worker that scores a concept's references among each other and yields the concept's name and value."""

    metric: Metric
    gallery: Mapping[str, tuple[Path, ...]]

    def __call__(self, concept: Concept) -> Iterator[tuple[str, float]]:
        make_room([self.metric])
        yield concept.name, real_image_ceiling(self.metric, concept, self.gallery)
