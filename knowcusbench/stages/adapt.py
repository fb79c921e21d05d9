"""The adapt stage: one adaptation per concept, or per knowledge item where the method asks for it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.method import Method
from knowcusbench.adapters.peft_files import is_saved, save_adaptation
from knowcusbench.backbone.base import BackboneSpec
from knowcusbench.benchmark.types import Concept
from knowcusbench.storage.claims import piece_of
from knowcusbench.machine.progress import Progress
from knowcusbench.run.prepare import Run, claim_weights, resident
from knowcusbench.run.layout import RunStore, writing

ADAPT = "adapt"

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


def adapt(run: Run) -> None:
    """Make the adaptations that are missing."""
    jobs = adapt_jobs(run.concepts, run.method)
    worker = partial(AdaptWorker, run.backbone, run.method, run.store, run.label, run.cache)
    missing = missing_jobs(run, jobs)
    workers = run.engine.parallelism if missing else 0
    with writing(), Progress(ADAPT, len(jobs), done=len(jobs) - len(missing), workers=workers) as progress:
        while missing:
            busy = False
            for job in run.engine.run(worker, missing):
                if job:
                    progress.note(job.concept.name)
                    progress.update()
                else:
                    busy = True
            if not busy:
                break
            time.sleep(POLL)
            missing = missing_jobs(run, jobs)
            progress.reach(len(jobs) - len(missing))


def missing_jobs(run: Run, jobs: list[AdaptJob]) -> list[AdaptJob]:
    """Return the jobs whose adaptation is not there yet."""
    return [job for job in jobs if not is_saved(place_of(run.store, run.label, job))]


def place_of(store: RunStore, label: str, job: AdaptJob) -> Path:
    """Where the adaptation that a job makes lies."""
    return store.adaptation(label, job.concept.name, job.item)


@dataclass(frozen=True)
class AdaptWorker:
    """Does adapt jobs with the backbone of its process; yields those that are done, and None for one that another
    process is at."""

    spec: BackboneSpec
    method: Method
    store: RunStore
    label: str
    cache: AdapterCache

    def __call__(self, job: AdaptJob) -> Iterator[AdaptJob | None]:
        place = place_of(self.store, self.label, job)
        with self.store.claims(self.label, ADAPT).of(piece_of(str(job))) as claim:
            if claim and not is_saved(place):
                backbone = resident(self.spec)
                claim_weights(self.store, backbone)
                adaptation = self.method.adapt(job.concept, backbone, self.cache)
                backbone.check_intact()
                save_adaptation(adaptation, place)
        yield job if claim else None
