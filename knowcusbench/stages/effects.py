"""The effects stage: what each adaptation does to everything else, and what all of them do together.

The engine's workers ask the text encoder and draw pictures; this process then compares the pictures.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from knowcusbench.adaptation.editor import Fact
from knowcusbench.adaptation.storage import load_adaptation, load_record
from knowcusbench.adaptation.sums import summed
from knowcusbench.adaptation.types import Adaptation
from knowcusbench.backbone.base import BackboneSpec
from knowcusbench.benchmark.types import Concept, Task
from knowcusbench.effects.interference import mean_embeddings, nearest_concept, reference_accuracy
from knowcusbench.effects.pictures import picture_measures
from knowcusbench.effects.spec import EffectsSpec, Unrelated
from knowcusbench.effects.text import (
    COLUMNS,
    Probe,
    read_base_text,
    read_text,
    text_effects,
    text_probes,
)
from knowcusbench.errors import MetricError, RunError
from knowcusbench.metrics.clip import ClipEncoder
from knowcusbench.metrics.memo import content_digest
from knowcusbench.plan import noise_seed
from knowcusbench.stages.adapt import AdaptJob, adapt_jobs
from knowcusbench.stages.generate import GenerateJob, GenerateWorker, Picture, draw, draw_cells, jobs_of, sample_cells
from knowcusbench.stages.prepare import Run, claim_weights, resident
from knowcusbench.store import RunStore, read_table, write_table, writing

TEXT = "text.parquet"
PICTURES = "pictures.parquet"
INTERFERENCE = "interference"
"""The name of the real-image ceiling of interference."""

SEPARATELY, TOGETHER = "separately", "together"
"""How adaptations were applied for a picture: the concept's own alone, or those of all concepts at once."""


def effects(run: Run) -> None:
    """Measure what is not measured yet. Raises RunError if an adaptation is missing."""
    jobs = adapt_jobs(run.concepts, run.method)
    for job in jobs:
        if not (path := run.store.adaptation(run.label, job.concept.name, job.item)).exists():
            raise RunError(f"{path}: no adaptation there; run `knowcusbench adapt` first, or `bench` for all stages")
    with writing():
        _ask_and_draw(run, jobs)
        for job in jobs:
            _compare_pictures(run, job)
        if interferes(run):
            _draw_together(run, jobs)
            _retrieve(run)
            _retrieve_references(run)


def interferes(run: Run) -> bool:
    """Whether the adaptations of all concepts are applied at once. A single concept disturbs no other."""
    return run.effects.interference and len(run.concepts) > 1 and not _reconstructions(run).empty


def _current(path: Path, protocol: str) -> bool:
    """Whether a table is there and was made by this protocol."""
    return path.exists() and set(read_table(path)["protocol"]) <= {protocol}


# Text and unrelated pictures, adaptation by adaptation.


def _ask_and_draw(run: Run, jobs: Sequence[AdaptJob]) -> None:
    if not all(run.store.unrelated(picture.id).exists() for picture in run.effects.pictures):
        # First and by one worker: all adaptations are compared with these.
        plain = partial(UnrelatedWorker, run.backbone, run.store, run.effects)
        for _ in run.engine.run(plain, [None]):
            pass
    missing = [job for job in jobs if not _measured(run, job)]
    if not missing:
        return
    worker = partial(EffectsWorker, run.backbone, run.store, run.label, run.effects, run.concepts)
    for _ in tqdm(run.engine.run(worker, missing), total=len(missing), desc="effects", disable=None):
        pass


def _measured(run: Run, job: AdaptJob) -> bool:
    directory = run.store.effects(run.label, job.concept.name, job.item)
    drawn = all((directory / f"{picture.id}.png").exists() for picture in run.effects.pictures)
    return drawn and _current(directory / TEXT, run.effects.protocol)


def unrelated_cells(spec: EffectsSpec, label: str, path: Callable[[str], Path]) -> list[list[Picture]]:
    """The unrelated pictures in cells, without those cells that have all their files. `path` gives the file of an
    id."""

    def picture(unrelated: Unrelated) -> Picture:
        file = path(unrelated.id)
        record = {"method": label, "prompt": unrelated.prompt, "seed": str(unrelated.seed)}
        return Picture(unrelated.prompt, noise_seed(unrelated.id), file, record, not file.exists())

    cells = [
        [picture(unrelated) for unrelated in cell]
        for _, cell in groupby(spec.pictures, key=lambda unrelated: unrelated.prompt)
    ]
    return [cell for cell in cells if any(picture.wanted for picture in cell)]


@dataclass(frozen=True)
class UnrelatedWorker:
    """Draws the unrelated pictures with the backbone as it is."""

    spec: BackboneSpec
    store: RunStore
    effects: EffectsSpec

    def __call__(self, job: None) -> Iterator[int]:
        backbone = resident(self.spec)
        claim_weights(self.store, backbone)
        yield from draw_cells(backbone, unrelated_cells(self.effects, "", self.store.unrelated))


@dataclass(frozen=True)
class EffectsWorker:
    """Puts the probes to an adapted text encoder, and draws the unrelated pictures."""

    spec: BackboneSpec
    store: RunStore
    label: str
    effects: EffectsSpec
    concepts: tuple[Concept, ...]

    def __call__(self, job: AdaptJob) -> Iterator[AdaptJob]:
        backbone = resident(self.spec)
        claim_weights(self.store, backbone)
        adaptation = load_adaptation(self.store.adaptation(self.label, job.concept.name, job.item))
        directory = self.store.effects(self.label, job.concept.name, job.item)
        others = [concept for concept in self.concepts if concept.name != job.concept.name]
        edited = adaptation.details.get("edited_facts")
        taught = None if edited is None else [Fact(**fact) for fact in edited]
        probes = text_probes(job.concept, others, self.effects.questions, self.effects.prompts, taught)
        form = self.effects.question_form
        base = read_base_text(backbone, probes, form)
        with backbone.adapted(adaptation):
            if not _current(directory / TEXT, self.effects.protocol):
                adapted = read_text(backbone, probes, form) if adaptation.text_encoder else base
                table = text_effects(probes, base, adapted)
                write_table(directory / TEXT, table.assign(protocol=self.effects.protocol))
            for _ in draw_cells(
                backbone, unrelated_cells(self.effects, self.label, lambda name: directory / f"{name}.png")
            ):
                pass
        yield job


def _compare_pictures(run: Run, job: AdaptJob) -> None:
    """Write the table of an adaptation's unrelated pictures, unless it is there for these very pictures."""
    directory = run.store.effects(run.label, job.concept.name, job.item)
    path = directory / PICTURES
    pairs = {
        unrelated: (run.store.unrelated(unrelated.id), directory / f"{unrelated.id}.png")
        for unrelated in run.effects.pictures
    }
    stamps = {unrelated: _stamp(*pair) for unrelated, pair in pairs.items()}
    if _current(path, run.effects.protocol) and set(read_table(path)["stamp"]) == set(stamps.values()):
        return
    rows = [
        (Probe.UNRELATED_PROMPT.value, unrelated.prompt, measure, float("nan"), value, stamps[unrelated])
        for unrelated, (before, after) in pairs.items()
        for measure, value in picture_measures(run.effects.encoder.load(), before, after).items()
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "stamp"])
    write_table(path, table.assign(protocol=run.effects.protocol))


def _stamp(*files: Path) -> str:
    """Changes when a file's content does."""
    return " ".join(content_digest(file)[:16] for file in files)


# Interference: the adaptations of all concepts at once.


def _reconstructions(run: Run) -> pd.DataFrame:
    return run.plan[run.plan["task"] == Task.RECONSTRUCTION.value]


def _draw_together(run: Run, jobs: Sequence[AdaptJob]) -> None:
    """Draw the reconstruction samples with the sum of all adaptations. A method with one per knowledge item has all of
    these in the sum."""
    drawn = {
        file.stem for concept in run.concepts for file in _together(run, concept.name, "*").parent.glob("[!.]*.png")
    }
    missing = jobs_of(run, _reconstructions(run), drawn, per_knowledge=False)
    if not missing:
        return
    parts = tuple(run.store.adaptation(run.label, job.concept.name, job.item) for job in jobs)
    worker = partial(TogetherWorker, run.backbone, run.method, run.store, run.label, parts)
    draw(run, worker, missing, "together")


def _together(run: Run, concept: str, sample_id: str) -> Path:
    return run.store.together(run.label, concept, sample_id)


@dataclass(frozen=True)
class TogetherWorker(GenerateWorker):
    """Does generate jobs with the sum of the adaptations at `parts`."""

    parts: tuple[Path, ...]

    def __call__(self, job: GenerateJob) -> Iterator[int]:
        backbone = resident(self.spec)
        claim_weights(self.store, backbone)
        with backbone.adapted(sum_of(self.parts)):
            yield from draw_cells(backbone, sample_cells(job, self.method, self.label, self.store.together))


@lru_cache(maxsize=1)
def sum_of(parts: tuple[Path, ...]) -> Adaptation:
    """All adaptations at these places at once, read once by a process. An edit of the text encoder that several of them
    share, as one of all concepts' knowledge, counts once."""
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
    """Write the nearest concept of every reconstruction sample that was drawn, unless that is there already."""
    path = run.store.interference(run.label)
    rows = [
        (applied, sample, concept, knowledge, file)
        for applied, place in ((SEPARATELY, run.store.image), (TOGETHER, run.store.together))
        for sample, concept, knowledge in _reconstructions(run)[["id", "concept", "knowledge"]].itertuples(index=False)
        if (file := place(run.label, concept, sample)).exists()
    ]
    stamps = [_stamp(file) for *_, file in rows]
    protocol = run.effects.protocol
    if _current(path, protocol) and list(read_table(path)["stamp"]) == stamps:
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
    """Write how many of each concept's references are nearest to their own concept."""
    path = run.store.ceilings(INTERFERENCE)
    if _current(path, run.effects.protocol):
        return
    accuracy = reference_accuracy(_references(run, run.effects.encoder.load()))
    table = pd.DataFrame(list(accuracy.items()), columns=["concept", "value"])
    write_table(path, table.assign(protocol=run.effects.protocol))


def _references(run: Run, encoder: ClipEncoder) -> dict[str, Tensor]:
    """Embeddings (references, dim) of each concept's reference images. Raises MetricError for a concept without."""
    for concept in run.concepts:
        if not concept.images:
            raise MetricError(
                f"concept {concept.name!r}: there are no reference images; effects.interference=false does without"
            )
    embeddings = {concept.name: encoder.embed_files(concept.images) for concept in run.concepts}
    return {name: torch.stack(list(found.values())) for name, found in embeddings.items()}
