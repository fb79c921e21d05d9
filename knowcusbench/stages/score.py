"""The score stage: every metric on every image, and the real-image ceilings."""

import pandas as pd
from tqdm import tqdm

from knowcusbench.benchmark.types import Prompt
from knowcusbench.metrics.base import Metric, ScoreItem
from knowcusbench.metrics.ceiling import real_image_ceiling
from knowcusbench.plan import Sample, samples
from knowcusbench.stages.prepare import Run
from knowcusbench.store import read_table, write_table, writing

CHUNK = 512
"""Images scored between two writes: what a kill can cost."""

COLUMNS = {"sample_id": "str", "value": "float64", "note": "str", "protocol": "str", "stamp": "str"}
"""`stamp` changes when the image file does; `protocol` is a digest of how the score was computed."""


def score(run: Run) -> None:
    """Score the images that have no score yet, or whose file changed since."""
    for name, metric in run.metrics.items():
        with writing():
            _score_metric(run, name, metric)
            _score_ceiling(run, name, metric)


def _score_metric(run: Run, name: str, metric: Metric) -> None:
    path = run.store.scores(run.label, name)
    done = read_table(path) if path.exists() else pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    wanted = samples(run.plan[run.plan["task"].isin([task.value for task in metric.tasks])])
    stamps = {sample.id: stamp for sample in wanted if (stamp := _stamp(run, sample))}
    valid = done[(done["stamp"] == done["sample_id"].map(stamps)) & (done["protocol"] == run.protocols[name])]
    unscored = stamps.keys() - set(valid["sample_id"])
    todo = [sample for sample in wanted if sample.id in unscored]
    if len(valid) < len(done) or not path.exists():
        write_table(path, valid)
    with tqdm(total=len(todo), desc=f"score {metric.title}", unit="image", disable=None) as progress:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            scores = metric.score([score_item(run, sample) for sample in chunk])
            rows = pd.DataFrame(
                {
                    "sample_id": [sample.id for sample in chunk],
                    "value": [score.value for score in scores],
                    "note": [score.note for score in scores],
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
    """What a metric is told of a sample. Text metrics see the class noun where the concept is named: no
    metric's text encoder knows the knowledge."""
    concept = run.concept(sample.concept)
    return ScoreItem(
        sample_id=sample.id,
        image=run.store.image(run.label, sample.concept, sample.id),
        references=concept.images,
        text=Prompt(sample.prompt, sample.prompt_aspect).fill(concept.class_noun),
        class_noun=concept.class_noun,
        concept=sample.concept,
        prompt=sample.prompt,
    )


def _score_ceiling(run: Run, name: str, metric: Metric) -> None:
    """Each concept's references scored against its other references."""
    path = run.store.ceilings(name)
    if not metric.uses_references:
        return
    if path.exists() and set(read_table(path)["protocol"]) == {run.protocols[name]}:
        return
    values = [(concept.name, real_image_ceiling(metric, concept), run.protocols[name]) for concept in run.concepts]
    write_table(path, pd.DataFrame(values, columns=["concept", "value", "protocol"]))
