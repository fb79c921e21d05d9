"""The jobs of a run: what each stage has to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from knowcusbench.adaptation.method import Method
from knowcusbench.adapters.peft_files import is_saved
from knowcusbench.benchmark.types import Concept, Task
from knowcusbench.run.layout import RunStore
from knowcusbench.run.run import Run
from knowcusbench.storage.files import names_in

POLL = 1.0
"""Seconds between two looks at what other processes still do."""


@dataclass(frozen=True)
class AdaptJob:
    """Adapt to a concept; `item` is the index of the only knowledge item it then has, or None for all."""

    concept: Concept
    item: int | None

    def __str__(self) -> str:
        return self.concept.name if self.item is None else f"{self.concept.name}, knowledge item {self.item}"


def adapt_jobs(concepts: tuple[Concept, ...], method: Method) -> list[AdaptJob]:
    """All jobs of a method, done or not."""
    if not method.per_knowledge:
        return [AdaptJob(concept, None) for concept in concepts]
    return [
        AdaptJob(concept.with_knowledge(item), index)
        for concept in concepts
        for index, item in enumerate(concept.knowledge)
    ]


def missing_jobs(run: Run, jobs: list[AdaptJob]) -> list[AdaptJob]:
    """Return the jobs whose adaptation is not there yet."""
    return [job for job in jobs if not is_saved(adaptation_path(run.store, run.label, job))]


def adaptation_path(store: RunStore, label: str, job: AdaptJob) -> Path:
    """Where the adaptation that a job makes lies."""
    return store.adaptation(label, job.concept.name, job.item)


def interferes(run: Run) -> bool:
    """Whether the adaptations of all concepts are applied at once. A single concept disturbs no other."""
    return run.effects.interference and len(run.concepts) > 1 and not _reconstructions(run).empty


def _reconstructions(run: Run) -> pd.DataFrame:
    return run.plan[run.plan["task"] == Task.RECONSTRUCTION.value]


def existing_images(run: Run, label: str | None = None) -> set[str]:
    """Ids of the samples that have an image, of another method of the run if `label` names one."""
    label = run.label if label is None else label
    return images_in([run.store.image(label, concept.name, "").parent for concept in run.concepts])


def images_in(directories: Sequence[Path]) -> set[str]:
    """The names of all PNG files in some directories, without the suffix."""
    return {
        name.removesuffix(".png") for directory in directories for name in names_in(directory) if name.endswith(".png")
    }
