"""The score stage: every metric on every image, their floors, and the real-image ceilings."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from knowcusbench.benchmark.types import Concept
from knowcusbench.metrics.base import Metric, ScoreItem, Shuffle
from knowcusbench.metrics.ceiling import real_image_ceiling
from knowcusbench.plan import Sample, samples
from knowcusbench.stages.prepare import Run
from knowcusbench.store import read_table, write_table, writing

CHUNK = 512
"""Images scored between two writes: what a kill can cost."""

COLUMNS = {
    "sample_id": "str",
    "value": "float64",
    "note": "str",
    "details": "str",
    "protocol": "str",
    "stamp": "str",
}
"""`details` is a JSON object of numbers, or empty. `stamp` changes when the image file does; `protocol` is a digest of
how the score was computed."""


def score(run: Run) -> None:
    """Score the images that have no score yet, or whose file changed since; and the same images beside references or
    prompts that are not theirs."""
    for name, metric in run.metrics.items():
        with writing():
            _score_table(run, name, run.store.scores(run.label, name), score_item, f"score {metric.title}")
            shuffled = _shuffled(run, metric)
            if shuffled:
                _score_table(run, name, run.store.floors(run.label, name), shuffled, f"shuffled {metric.title}")
            _score_ceiling(run, name, metric)


def _score_table(run: Run, name: str, path: Path, item_of: Callable[[Run, Sample], ScoreItem], title: str) -> None:
    """Bring a table of one metric's scores up to date."""
    metric = run.metrics[name]
    done = read_table(path) if path.exists() else pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    wanted = samples(run.plan[run.plan["task"].isin([task.value for task in metric.tasks])])
    stamps = {sample.id: stamp for sample in wanted if (stamp := _stamp(run, sample))}
    valid = done[(done["stamp"] == done["sample_id"].map(stamps)) & (done["protocol"] == run.protocols[name])]
    unscored = stamps.keys() - set(valid["sample_id"])
    todo = [sample for sample in wanted if sample.id in unscored]
    if len(valid) < len(done) or not path.exists():
        write_table(path, valid)
    with tqdm(total=len(todo), desc=title, unit="image", disable=None) as progress:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            scores = metric.score([item_of(run, sample) for sample in chunk])
            rows = pd.DataFrame(
                {
                    "sample_id": [sample.id for sample in chunk],
                    "value": [score.value for score in scores],
                    "note": [score.note for score in scores],
                    "details": [json.dumps(score.details) if score.details else "" for score in scores],
                    "protocol": run.protocols[name],
                    "stamp": [stamps[sample.id] for sample in chunk],
                }
            )
            valid = pd.concat([valid, rows.astype(COLUMNS)], ignore_index=True)
            write_table(path, valid)
            progress.update(len(chunk))


def _stamp(run: Run, sample: Sample) -> str | None:
    """Size and time of the sample's image file; None if there is none."""
    path = run.store.image(run.label, sample.concept, sample.id)
    if not path.exists():
        return None
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def score_item(run: Run, sample: Sample) -> ScoreItem:
    """What a metric is told of a sample."""
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
    """What the metric is told of samples for its floor: the next concept in the place of each sample's own, or the next
    prompt of its concept. None where there is only one."""
    if metric.shuffle is Shuffle.CONCEPTS:
        if len(run.concepts) < 2:
            return None
        others = dict(zip((c.name for c in run.concepts), (*run.concepts[1:], run.concepts[0]), strict=True))
        return lambda run, sample: _beside_another(score_item(run, sample), others[sample.concept])
    following = {
        concept.name: dict(zip(prompts, [*prompts[1:], prompts[0]], strict=True))
        for concept in run.concepts
        if (prompts := [prompt.template for prompt in concept.prompts])
    }
    if any(len(prompts) < 2 for prompts in following.values()):
        return None
    return lambda run, sample: replace(score_item(run, sample), prompt=following[sample.concept][sample.prompt])


def _beside_another(item: ScoreItem, other: Concept) -> ScoreItem:
    return replace(
        item, references=other.images, held_out=other.held_out, concept=other.name, reference_noun=other.class_noun
    )


def _score_ceiling(run: Run, name: str, metric: Metric) -> None:
    """Each concept's references scored against its other references."""
    path = run.store.ceilings(name)
    if not metric.uses_references:
        return
    if path.exists() and set(read_table(path)["protocol"]) == {run.protocols[name]}:
        return
    values = [
        (concept.name, real_image_ceiling(metric, concept, run.gallery), run.protocols[name])
        for concept in run.concepts
    ]
    write_table(path, pd.DataFrame(values, columns=["concept", "value", "protocol"]))
