"""The generate stage: draw every sample of the plan with its adaptation."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import pandas as pd

from knowcusbench.adaptation.method import Method
from knowcusbench.adapters.peft_files import is_saved, load_adaptation
from knowcusbench.backbone.base import BackboneSpec, resident
from knowcusbench.benchmark.types import Concept, Prompt
from knowcusbench.errors import RunError
from knowcusbench.machine.progress import Progress
from knowcusbench.run.checks import check_weights
from knowcusbench.run.jobs import POLL, existing_images
from knowcusbench.run.layout import GENERATE
from knowcusbench.run.plan import Sample, samples
from knowcusbench.run.run import Run
from knowcusbench.stages.drawing import Outcome, Picture, WorkLog, draw_cells
from knowcusbench.storage.tables import read_json, writing

CELL = ["concept", "task", "knowledge", "prompt"]
"""Columns that identify a cell. Its samples differ only in the seed and make one batch."""


SHARES = 2
"""Divisor that limits a job's size to a part of one worker's share of the remaining cells.

The first jobs are large, since each loads an adaptation. The last ones are small, so that no worker waits long for
another.
"""

HOPELESS = 20
"""Number of images that may fail before any is drawn; this many end the command."""


@dataclass(frozen=True)
class GenerateJob:
    """Samples that share one adaptation.

    Attributes:
        concept: the concept, with all its knowledge items.
        item: index of the knowledge item that the adaptation is for, or None for all.
        samples: the samples, in whole cells (all seeds of a prompt).
        missing: ids of the samples whose images are to be written.
    """

    concept: Concept
    item: int | None
    samples: tuple[Sample, ...]
    missing: frozenset[str]

    def __str__(self) -> str:
        return f"{self.concept.name}: {len(self.missing)} images from {self.samples[0].id}"


MakeWorker = Callable[[], Callable[[GenerateJob], Iterator[Outcome]]]


def generate(run: Run) -> None:
    """Draw the missing images."""
    for job in generate_jobs(run):
        if not is_saved(path := run.store.adaptation(run.label, job.concept.name, job.item)):
            raise RunError(f"{path}: no adaptation there; run `knowcusbench adapt` first, or `bench` for all stages")
    log = WorkLog(run.store, run.label, GENERATE, run.engine.retries)
    draw(run, partial(GenerateWorker, run.backbone, run.method, log), partial(generate_jobs, run), GENERATE)


def draw(run: Run, worker: MakeWorker, missing: Callable[[set[str]], Sequence[GenerateJob]], title: str) -> None:
    """Run jobs with the run's engine until all are done, also those that other processes began.

    `missing` returns the remaining jobs without the samples that failed. The number of images written is shown.
    """
    failed: set[str] = set()
    jobs = missing(failed)
    workers = run.engine.parallelism if jobs else 0
    with writing(), Progress(title, _images_of(jobs), unit="image", workers=workers) as progress:
        while jobs:
            progress.expect(progress.n + _images_of(jobs))
            busy = False
            for drawn in run.engine.run(worker, jobs):
                progress.update(drawn.written)
                failed.update(drawn.failed)
                busy |= drawn.busy
                if len(failed) >= HOPELESS and not progress.n:
                    _give_up(run, failed)
            if not busy:
                break
            time.sleep(POLL)
            jobs = missing(failed)


def _images_of(jobs: Sequence[GenerateJob]) -> int:
    return sum(len(job.missing) for job in jobs)


def _give_up(run: Run, failed: set[str]) -> None:
    first = read_json(run.store.failure(run.label, min(failed)))
    raise RunError(
        f"none of the first {len(failed)} images could be drawn ({first['error']}); see {run.store.root}/failures"
    )


def generate_jobs(run: Run, failed: set[str] = frozenset()) -> list[GenerateJob]:  # type: ignore[assignment]
    """Return the jobs for all missing images except those that failed, in the order of the plan."""
    return jobs_of(run, run.plan, existing_images(run) | failed, per_knowledge=run.method.per_knowledge)


def jobs_of(run: Run, plan: pd.DataFrame, existing: set[str], *, per_knowledge: bool) -> list[GenerateJob]:
    """Return jobs for the samples of `plan` that are not in `existing`.

    A single worker gets one job per concept (or knowledge item), several workers get smaller ones. Cells are kept
    whole.
    """
    missing = ~plan["id"].isin(existing)
    cells = plan.groupby(CELL, sort=False, observed=True).ngroup()
    todo, ids = plan[cells.isin(cells[missing].unique())], frozenset(plan["id"][missing])
    keys = ["concept", "knowledge"] if per_knowledge else ["concept"]
    left = int(cells[missing].nunique())
    jobs = []
    for _, rows in todo.groupby(keys, sort=False, observed=True):
        own = [list(cell) for _, cell in groupby(samples(rows), key=_cell)]
        while own:
            size = len(own) if run.engine.parallelism == 1 else max(1, left // (SHARES * run.engine.parallelism))
            drawn = tuple(sample for cell in own[:size] for sample in cell)
            item = drawn[0].knowledge if per_knowledge else None
            jobs.append(GenerateJob(run.concept(drawn[0].concept), item, drawn, ids & {s.id for s in drawn}))
            left -= len(own[:size])
            own = own[size:]
    return jobs


@dataclass(frozen=True)
class GenerateWorker:
    """A worker that runs generate jobs with its process's backbone."""

    spec: BackboneSpec
    method: Method
    log: WorkLog

    def __call__(self, job: GenerateJob) -> Iterator[Outcome]:
        backbone = resident(self.spec)
        store, label = self.log.store, self.log.label
        check_weights(store, backbone)
        adaptation = load_adaptation(store.adaptation(label, job.concept.name, job.item))
        cells = sample_cells(job, self.method, label, store.image)
        with backbone.adapted(adaptation):
            yield from draw_cells(
                backbone, cells, self.log, concept=job.concept.name, text_encoder=adaptation.text_encoder
            )


def sample_cells(
    job: GenerateJob, method: Method, label: str, path: Callable[[str, str, str], Path]
) -> list[list[Picture]]:
    """Return a job's samples in cells. `path` returns the file for a label, concept and sample id."""

    def picture(sample: Sample) -> Picture:
        subject = method.subject(job.concept, job.concept.knowledge[sample.knowledge])
        prompt = Prompt(sample.prompt, sample.prompt_aspect).fill(subject)
        file = path(label, sample.concept, sample.id)
        record = sample_record(sample, prompt, label)
        return Picture(sample.id, prompt, sample.noise_seed, file, record, sample.id in job.missing)

    return [[picture(sample) for sample in cell] for _, cell in groupby(job.samples, key=_cell)]


def _cell(sample: Sample) -> tuple[int, str, str]:
    return sample.knowledge, sample.task.value, sample.prompt


def sample_record(sample: Sample, prompt: str, label: str) -> dict[str, str]:
    """Return the text chunks of a sample's image file."""
    return {
        "sample": sample.id,
        "method": label,
        "concept": sample.concept,
        "task": sample.task.value,
        "prompt": prompt,
        "seed": str(sample.seed),
        "noise_seed": str(sample.noise_seed),
    }
