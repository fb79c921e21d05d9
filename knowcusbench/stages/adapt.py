"""The adapt stage: one adaptation per concept, or per knowledge item if the method asks for it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.method import Method
from knowcusbench.adapters.peft_files import is_saved, save_adaptation
from knowcusbench.backbone.base import BackboneSpec, resident
from knowcusbench.machine.progress import Progress
from knowcusbench.run.checks import check_weights
from knowcusbench.run.jobs import POLL, AdaptJob, adapt_jobs, adaptation_path, missing_jobs
from knowcusbench.run.layout import RunStore
from knowcusbench.run.run import Run
from knowcusbench.storage.claims import piece_of
from knowcusbench.storage.tables import writing

ADAPT = "adapt"


def adapt(run: Run) -> None:
    """Make the missing adaptations."""
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


@dataclass(frozen=True)
class AdaptWorker:
    """A worker that runs adapt jobs with its process's backbone.

    Yields each finished job, and None for a job that another process holds.
    """

    spec: BackboneSpec
    method: Method
    store: RunStore
    label: str
    cache: AdapterCache

    def __call__(self, job: AdaptJob) -> Iterator[AdaptJob | None]:
        place = adaptation_path(self.store, self.label, job)
        with self.store.claims(self.label, ADAPT).of(piece_of(str(job))) as claim:
            if claim and not is_saved(place):
                backbone = resident(self.spec)
                check_weights(self.store, backbone)
                adaptation = self.method.adapt(job.concept, backbone, self.cache)
                backbone.check_intact()
                save_adaptation(adaptation, place)
        yield job if claim else None
