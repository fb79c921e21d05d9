"""The effects stage: side effects of each adaptation, and of all adaptations together.

The engine's workers query the text encoder, draw images and compare them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from knowcusbench.adapters.peft_files import is_saved, load_adaptation, load_record
from knowcusbench.adapters.sums import summed
from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.base import BackboneSpec, resident
from knowcusbench.benchmark.types import Concept, Fact
from knowcusbench.effects.interference import mean_embeddings, nearest_concept, reference_accuracy
from knowcusbench.effects.pictures import picture_measures
from knowcusbench.effects.spec import EffectsSpec, Unrelated
from knowcusbench.effects.text import (
    COLUMNS,
    QuestionKind,
    read_base_text,
    read_text,
    text_effects,
    text_probes,
)
from knowcusbench.encoders.clip import ClipEncoder
from knowcusbench.engine.local import LocalEngine
from knowcusbench.errors import MetricError, RunError
from knowcusbench.machine.progress import Progress
from knowcusbench.run.checks import check_weights
from knowcusbench.run.jobs import POLL, AdaptJob, _reconstructions, adapt_jobs, adaptation_path, images_in, interferes
from knowcusbench.run.layout import INTERFERENCE, PICTURES, TEXT
from knowcusbench.run.run import Run
from knowcusbench.stages.drawing import Outcome, Picture, WorkLog, draw_cells
from knowcusbench.stages.generate import GenerateJob, GenerateWorker, draw, jobs_of, sample_cells
from knowcusbench.storage.claims import piece_of
from knowcusbench.storage.digests import content_digest, noise_seed
from knowcusbench.storage.tables import read_table, write_table, writing

if TYPE_CHECKING:
    from torch import Tensor

EFFECTS, UNRELATED = "effects", "unrelated"
"""Names of the stage's two parts in journals and claims."""

SEPARATELY, TOGETHER = "separately", "together"
"""How adaptations were applied to an image: only its concept's own, or those of all concepts at once."""


def effects(run: Run) -> None:
    """Measure the effects that are not measured yet. Raises RunError if an adaptation is missing."""
    jobs = adapt_jobs(run.concepts, run.method)
    for job in jobs:
        if not is_saved(path := adaptation_path(run.store, run.label, job)):
            raise RunError(f"{path}: no adaptation there; run `knowcusbench adapt` first, or `bench` for all stages")
    with writing(), Progress(EFFECTS):
        _ask_and_draw(run, jobs)
        compare = partial(CompareWorker, replace(run, engine=LocalEngine()))
        measured = [job for job in jobs if _measured(run, job)]
        with Progress("effects, compared", len(measured)) as progress:
            for _ in run.engine.run(compare, measured):
                progress.update()
        for job in jobs:
            if job not in measured:
                tqdm.write(
                    f"knowcusbench: the effects of {run.label} for {job} are left out, since pictures could not be "
                    f"drawn; {run.store.root}/failures says why",
                    file=sys.stderr,
                )
        if interferes(run):
            _draw_together(run, jobs)
            with Progress("effects, nearest concepts"):
                for _ in run.engine.run(compare, [None]):
                    pass


def _current(run: Run, path: Path) -> bool:
    """Return whether a table exists and was made with the run's protocol."""
    return path.exists() and set(run.table(path)["protocol"]) <= {run.effects.protocol}


# Answers and unrelated images, adaptation by adaptation.


def _ask_and_draw(run: Run, jobs: Sequence[AdaptJob]) -> None:
    # The unadapted images come first, from one worker: all adaptations are compared with them.
    plain = partial(UnrelatedWorker, run.backbone, _work_log(run, UNRELATED, UNRELATED), run.effects)
    total = len(run.effects.pictures)
    with Progress("effects, unadapted", total, done=_unrelated_drawn(run), unit="image") as progress:
        while progress.n < total:
            busy = False
            for drawn in run.engine.run(plain, [None]):
                progress.update(drawn.written)
                busy |= drawn.busy
            if not busy:
                break
            time.sleep(POLL)
            progress.reach(_unrelated_drawn(run))
    worker = partial(EffectsWorker, run.backbone, _work_log(run, EFFECTS), run.effects, run.concepts)
    missing = [job for job in jobs if not _measured(run, job)]
    workers = run.engine.parallelism if missing else 0
    with Progress("effects, adapted", len(jobs), done=len(jobs) - len(missing), workers=workers) as progress:
        while missing:
            busy = False
            for is_busy in run.engine.run(worker, missing):
                busy |= is_busy
                progress.update(not is_busy)
            if not busy:
                break
            time.sleep(POLL)
            missing = [job for job in jobs if not _measured(run, job)]
            progress.reach(len(jobs) - len(missing))


def _unrelated_drawn(run: Run) -> int:
    return sum(run.store.unrelated(picture.id).exists() for picture in run.effects.pictures)


def _work_log(run: Run, stage: str, label: str | None = None) -> WorkLog:
    return WorkLog(run.store, run.label if label is None else label, stage, run.engine.retries)


def _measured(run: Run, job: AdaptJob) -> bool:
    directory = run.store.effects(run.label, job.concept.name, job.item)
    drawn = all((directory / f"{picture.id}.png").exists() for picture in run.effects.pictures)
    return drawn and _current(run, directory / TEXT)


def unrelated_cells(
    spec: EffectsSpec, label: str, path: Callable[[str], Path], adaptation: str = ""
) -> list[list[Picture]]:
    """Return the unrelated images in cells.

    `path` returns the file of an id; `adaptation` names the adaptation in use.
    """

    def picture(unrelated: Unrelated) -> Picture:
        file = path(unrelated.id)
        record = {"method": label, "prompt": unrelated.prompt, "seed": str(unrelated.seed)}
        # Every adaptation draws the same prompts, so its name is part of the id.
        own = piece_of(adaptation, unrelated.id) if adaptation else unrelated.id
        return Picture(own, unrelated.prompt, noise_seed(unrelated.id), file, record, wanted=True)

    return [
        [picture(unrelated) for unrelated in cell]
        for _, cell in groupby(spec.pictures, key=lambda unrelated: unrelated.prompt)
    ]


@dataclass(frozen=True)
class UnrelatedWorker:
    """A worker that draws the unrelated images with the unadapted backbone."""

    spec: BackboneSpec
    log: WorkLog
    effects: EffectsSpec

    def __call__(self, job: None) -> Iterator[Outcome]:
        backbone = resident(self.spec)
        check_weights(self.log.store, backbone)
        cells = unrelated_cells(self.effects, "", self.log.store.unrelated)
        yield from draw_cells(backbone, cells, self.log)


@dataclass(frozen=True)
class EffectsWorker:
    """A worker that asks an adapted text encoder the probe questions and draws the unrelated images.

    Yields for each job whether another process holds it.
    """

    spec: BackboneSpec
    log: WorkLog
    effects: EffectsSpec
    concepts: tuple[Concept, ...]

    def __call__(self, job: AdaptJob) -> Iterator[bool]:
        with self.log.store.claims(self.log.label, EFFECTS).of(piece_of(str(job))) as claim:
            busy = not claim or self._measure(job)
        yield busy

    def _measure(self, job: AdaptJob) -> bool:
        """Do a job, and return whether another process draws one of its images."""
        store, label = self.log.store, self.log.label
        backbone = resident(self.spec)
        check_weights(store, backbone)
        adaptation = load_adaptation(adaptation_path(store, label, job))
        directory = store.effects(label, job.concept.name, job.item)
        others = [concept for concept in self.concepts if concept.name != job.concept.name]
        edited = adaptation.details.get("edited_facts")
        taught = None if edited is None else [Fact(**fact) for fact in edited]
        probes = text_probes(job.concept, others, self.effects.questions, self.effects.prompts, taught)
        form = self.effects.question_form
        base = read_base_text(backbone, probes, form)
        with backbone.adapted(adaptation):
            known = read_table(directory / TEXT) if (directory / TEXT).exists() else None
            if known is None or not set(known["protocol"]) <= {self.effects.protocol}:
                adapted = read_text(backbone, probes, form) if adaptation.text_encoder else base
                table = text_effects(probes, base, adapted)
                write_table(directory / TEXT, table.assign(protocol=self.effects.protocol))
            cells = unrelated_cells(self.effects, label, lambda name: directory / f"{name}.png", str(job))
            outcomes = list(
                draw_cells(backbone, cells, self.log, concept=job.concept.name, text_encoder=adaptation.text_encoder)
            )
        return any(drawn.busy for drawn in outcomes)


def _compare_pictures(run: Run, job: AdaptJob) -> None:
    """Write the table of an adaptation's unrelated images, unless it exists for exactly these images."""
    directory = run.store.effects(run.label, job.concept.name, job.item)
    path = directory / PICTURES
    pairs = {
        unrelated: (run.store.unrelated(unrelated.id), directory / f"{unrelated.id}.png")
        for unrelated in run.effects.pictures
    }
    stamps = {unrelated: _stamp(*pair) for unrelated, pair in pairs.items()}
    if _current(run, path) and set(read_table(path)["stamp"]) == set(stamps.values()):
        return
    rows = [
        (QuestionKind.UNRELATED_PROMPT.value, unrelated.prompt, measure, float("nan"), value, stamps[unrelated])
        for unrelated, (before, after) in pairs.items()
        for measure, value in picture_measures(run.effects.encoder.load(), before, after).items()
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "stamp"])
    write_table(path, table.assign(protocol=run.effects.protocol))


@dataclass(frozen=True)
class CompareWorker:
    """A worker that compares an adaptation's images or, if the job is None, finds the nearest concepts.

    This runs in workers because they have the GPUs; the command's own process takes none.
    """

    run: Run

    def __call__(self, job: AdaptJob | None) -> Iterator[None]:
        if job:
            _compare_pictures(self.run, job)
        else:
            _retrieve(self.run)
            _retrieve_references(self.run)
        yield None


def _stamp(*files: Path) -> str:
    """Return digests that change with the files' contents."""
    return " ".join(content_digest(file)[:16] for file in files)


# Interference: the adaptations of all concepts at once.


def _draw_together(run: Run, jobs: Sequence[AdaptJob]) -> None:
    """Draw the reconstruction samples with the sum of all adaptations, including those of every knowledge item."""
    parts = tuple(adaptation_path(run.store, run.label, job) for job in jobs)
    worker = partial(TogetherWorker, run.backbone, run.method, _work_log(run, TOGETHER), parts)

    def missing(failed: set[str]) -> list[GenerateJob]:
        drawn = images_in([run.store.together(run.label, concept.name, "").parent for concept in run.concepts])
        return jobs_of(run, _reconstructions(run), drawn | failed, per_knowledge=False)

    draw(run, worker, missing, TOGETHER)


@dataclass(frozen=True)
class TogetherWorker(GenerateWorker):
    """A worker that runs generate jobs with the sum of the adaptations at `parts`."""

    parts: tuple[Path, ...]

    def __call__(self, job: GenerateJob) -> Iterator[Outcome]:
        backbone = resident(self.spec)
        store, label = self.log.store, self.log.label
        check_weights(store, backbone)
        cells = sample_cells(job, self.method, label, store.together)
        together = sum_of(self.parts)
        with backbone.adapted(together):
            yield from draw_cells(
                backbone, cells, self.log, concept=job.concept.name, text_encoder=together.text_encoder
            )


@lru_cache(maxsize=1)
def sum_of(parts: tuple[Path, ...]) -> Adaptation:
    """Return the sum of the adaptations at these paths, loaded once per process.

    An edit of the text encoder that several of them share, such as one of all concepts' knowledge, counts once.
    """
    adaptations = []
    edits: list[dict[str, str]] = []
    for path in parts:
        adaptation = load_adaptation(path)
        if adaptation.text_encoder:
            digests = load_record(path)["digests"]["text_encoder"]
            if digests in edits:
                adaptation = replace(adaptation, text_encoder=None)
            edits.append(digests)
        adaptations.append(adaptation)
    return summed(adaptations)


def _retrieve(run: Run) -> None:
    """Write the nearest concept of every drawn reconstruction sample, unless the table is up to date."""
    path = run.store.interference(run.label)
    rows = [
        (applied, sample, concept, knowledge, file)
        for applied, place in ((SEPARATELY, run.store.image), (TOGETHER, run.store.together))
        for sample, concept, knowledge in _reconstructions(run)[["id", "concept", "knowledge"]].itertuples(index=False)
        if (file := place(run.label, concept, sample)).exists()
    ]
    stamps = [_stamp(file) for *_, file in rows]
    protocol = run.effects.protocol
    if _current(run, path) and list(read_table(path)["stamp"]) == stamps:
        return
    encoder = run.effects.encoder.load()
    means = mean_embeddings(_references(run, encoder))
    embeddings = encoder.embed_files([file for *_, file in rows])
    table = pd.DataFrame(
        [
            (applied, sample, concept, knowledge, nearest_concept(embeddings[file], means))
            for applied, sample, concept, knowledge, file in rows
        ],
        columns=["applied", "sample_id", "concept", "knowledge", "nearest"],
    )
    write_table(path, table.assign(stamp=stamps, protocol=protocol))


def _retrieve_references(run: Run) -> None:
    """Write the share of each concept's references that are nearest to their own concept."""
    path = run.store.ceilings(INTERFERENCE)
    if _current(run, path):
        return
    accuracy = reference_accuracy(_references(run, run.effects.encoder.load()))
    table = pd.DataFrame(list(accuracy.items()), columns=["concept", "value"])
    write_table(path, table.assign(protocol=run.effects.protocol))


def _references(run: Run, encoder: ClipEncoder) -> dict[str, Tensor]:
    """Return embeddings (references, dim) of each concept's reference images.

    Raises MetricError for a concept without references.
    """
    import torch

    for concept in run.concepts:
        if not concept.images:
            raise MetricError(
                f"concept {concept.name!r}: there are no reference images; add some, or set effects.interference=false"
            )
    embeddings = {concept.name: encoder.embed_files(concept.images) for concept in run.concepts}
    return {name: torch.stack(list(found.values())) for name, found in embeddings.items()}
