"""The score stage: every metric on every image, and the real-image ceilings."""

from collections.abc import Sequence

import pandas as pd
from tqdm import tqdm

from knowcusbench.benchmark.types import Concept, Prompt, Task
from knowcusbench.metrics.base import Metric, ScoreItem
from knowcusbench.metrics.ceiling import real_image_ceiling
from knowcusbench.plan import Sample, samples
from knowcusbench.stages.prepare import Run
from knowcusbench.store import read_table, write_table, writing

CHUNK = 512
"""Images scored between two writes: what a kill can cost."""

COLUMNS = {"sample_id": "str", "stamp": "str", "value": "float64", "note": "str"}


def score(run: Run) -> None:
    """Score the images that have no score yet, or whose file changed since."""
    for name, metric in run.metrics.items():
        with writing(run.store.root):
            _score_metric(run, name, metric)
            _score_ceiling(run, name, metric)


def _score_metric(run: Run, name: str, metric: Metric) -> None:
    path = run.store.scores(run.label, name)
    done = read_table(path) if path.exists() else pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    stamps = {sample.id: _stamp(run, sample) for sample in _wanted(run, metric)}
    kept = done[done["stamp"] == done["sample_id"].map(stamps)]
    known = set(kept["sample_id"])
    todo = [sample for sample in _wanted(run, metric) if stamps[sample.id] and sample.id not in known]
    if len(kept) == len(done) and not todo and path.exists():
        return
    parts = [kept]
    with tqdm(total=len(todo), desc=f"score {metric.title}", unit="image", disable=None) as progress:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            scores = metric.score([score_item(run, sample) for sample in chunk])
            parts.append(
                pd.DataFrame(
                    {
                        "sample_id": [sample.id for sample in chunk],
                        "stamp": [stamps[sample.id] for sample in chunk],
                        "value": [score.value for score in scores],
                        "note": [score.note for score in scores],
                    }
                ).astype(COLUMNS)
            )
            write_table(path, pd.concat(parts, ignore_index=True))
            progress.update(len(chunk))
    if not todo:
        write_table(path, kept)


def _wanted(run: Run, metric: Metric) -> list[Sample]:
    return samples(run.plan[run.plan["task"].isin([task.value for task in metric.tasks])])


def _stamp(run: Run, sample: Sample) -> str:
    """Changes when the image file does; empty if there is none."""
    path = run.store.image(run.label, sample.concept, sample.id)
    if not path.exists():
        return ""
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def score_item(run: Run, sample: Sample) -> ScoreItem:
    """What a metric is told of a sample. Text metrics see the class noun where the concept is named: no
    metric's text encoder knows the knowledge."""
    concept = run.concept(sample.concept)
    return ScoreItem(
        sample_id=sample.id,
        image=run.store.image(run.label, sample.concept, sample.id),
        references=concept.images,
        text=Prompt(sample.prompt, sample.prompt_aspect).fill(concept.class_noun),
        class_noun=concept.class_noun,
    )


def _score_ceiling(run: Run, name: str, metric: Metric) -> None:
    path = run.store.ceilings(name)
    if not metric.uses_references or path.exists():
        return
    write_table(path, ceiling_table(metric, run.concepts))


def ceiling_table(metric: Metric, concepts: Sequence[Concept]) -> pd.DataFrame:
    """Columns concept and value: each concept's references scored against its other references."""
    values = [(concept.name, real_image_ceiling(metric, concept)) for concept in concepts]
    return pd.DataFrame(values, columns=["concept", "value"])


