"""The jobs of a run, that is, the work of each stage."""

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
"""Seconds between two checks of what other processes still do."""


@dataclass(frozen=True)
class AdaptJob:
    """An adaptation to a concept. `item` is the index of its only knowledge item, or None for all items."""

    concept: Concept
    item: int | None

    def __str__(self) -> str:
        return self.concept.name if self.item is None else f"{self.concept.name}, knowledge item {self.item}"


def adapt_jobs(concepts: tuple[Concept, ...], method: Method) -> list[AdaptJob]:
    """Return all jobs of a method, done or not."""
    if not method.per_knowledge:
        return [AdaptJob(concept, None) for concept in concepts]
    return [
        AdaptJob(concept.with_knowledge(item), index)
        for concept in concepts
        for index, item in enumerate(concept.knowledge)
    ]


def missing_jobs(run: Run, jobs: list[AdaptJob]) -> list[AdaptJob]:
    """Return the jobs without a saved adaptation."""
    return [job for job in jobs if not is_saved(adaptation_path(run.store, run.label, job))]


def adaptation_path(store: RunStore, label: str, job: AdaptJob) -> Path:
    """Return the path of the adaptation that a job makes."""
    return store.adaptation(label, job.concept.name, job.item)


def interferes(run: Run) -> bool:
    """Return whether the adaptations of all concepts are applied at once. A single concept disturbs no other."""
    return run.effects.interference and len(run.concepts) > 1 and not _reconstructions(run).empty


def _reconstructions(run: Run) -> pd.DataFrame:
    return run.plan[run.plan["task"] == Task.RECONSTRUCTION.value]


def existing_images(run: Run, label: str | None = None) -> set[str]:
    """Return the ids of the samples that have an image, for the run's method or the method `label`."""
    label = run.label if label is None else label
    return images_in([run.store.image(label, concept.name, "").parent for concept in run.concepts])


def images_in(directories: Sequence[Path]) -> set[str]:
    """Return the names of all PNG files in some directories, without the suffix."""
    return {
        name.removesuffix(".png") for directory in directories for name in names_in(directory) if name.endswith(".png")
    }
