"""The generate stage: draw every sample of the plan with its adaptation."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from uuid import uuid4

import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from knowcusbench.adaptation.measure import measured
from knowcusbench.adaptation.method import Method
from knowcusbench.adaptation.storage import load_adaptation
from knowcusbench.backbone.base import Backbone, BackboneSpec, PromptEmbeds
from knowcusbench.backbone.prompt_store import encoded_prompts
from knowcusbench.benchmark.types import Concept, Prompt
from knowcusbench.errors import RunError
from knowcusbench.files import write_atomic
from knowcusbench.plan import Sample, samples
from knowcusbench.stages.prepare import Run, claim_weights, resident
from knowcusbench.store import RunStore, write_json, writing

PNG_COMPRESSION = 6
"""Fixed, so that an image drawn again has the same bytes."""

CELL = ["concept", "task", "knowledge", "prompt"]
"""Samples that share these differ in the seed only; they make one batch."""

GENERATE = "generate"

ENCODED_AHEAD = 512
"""Prompts encoded before the transformer runs: large enough to keep the encoder busy, small enough for
memory (about 0.5 MB of embeddings a prompt at full size)."""


@dataclass(frozen=True)
class GenerateJob:
    """Samples that share one adaptation. `concept` has all its knowledge items.

    `samples` has every cell (the seeds of one prompt) whole, `missing` are the ids to be written: a cell is always
    drawn in the same batch, since on a GPU the batch size can change an image's last bits.
    """

    concept: Concept
    item: int | None
    samples: tuple[Sample, ...]
    missing: frozenset[str]


def generate(run: Run) -> None:
    """Draw the images that are missing."""
    jobs = generate_jobs(run)
    if not jobs:
        return
    for job in jobs:
        if not (path := run.store.adaptation(run.label, job.concept.name, job.item)).exists():
            raise RunError(f"{path}: no adaptation there; run `knowcusbench adapt` first, or `bench` for all stages")
    worker = partial(GenerateWorker, run.backbone, run.method, run.store, run.label)
    draw(run, worker, jobs, GENERATE)


def draw(
    run: Run, worker: Callable[[], Callable[[GenerateJob], Iterator[int]]], jobs: Sequence[GenerateJob], title: str
) -> None:
    """Do the jobs with the run's engine, showing the number of images written."""
    total = sum(len(job.missing) for job in jobs)
    with writing(), tqdm(total=total, desc=title, unit="image", disable=None) as progress:
        for written in run.engine.run(worker, jobs):
            progress.update(written)


def generate_jobs(run: Run) -> list[GenerateJob]:
    """One job for each adaptation that has missing images, in the order of the plan."""
    return jobs_of(run, run.plan, existing_images(run), per_knowledge=run.method.per_knowledge)


def jobs_of(run: Run, plan: pd.DataFrame, existing: set[str], *, per_knowledge: bool) -> list[GenerateJob]:
    """One job for each concept (or knowledge item) of `plan` that has samples which are not among `existing`."""
    missing = ~plan["id"].isin(existing)
    cells = plan.groupby(CELL, sort=False, observed=True).ngroup()
    todo, ids = plan[cells.isin(cells[missing].unique())], frozenset(plan["id"][missing])
    keys = ["concept", "knowledge"] if per_knowledge else ["concept"]
    jobs = []
    for _, rows in todo.groupby(keys, sort=False, observed=True):
        drawn = tuple(samples(rows))
        item = drawn[0].knowledge if per_knowledge else None
        own = ids & {sample.id for sample in drawn}
        jobs.append(GenerateJob(run.concept(drawn[0].concept), item, drawn, own))
    return jobs


def existing_images(run: Run) -> set[str]:
    """Ids of the samples that have an image."""
    return {
        file.stem
        for concept in run.concepts
        for file in run.store.image(run.label, concept.name, "*").parent.glob("[!.]*.png")
    }


@dataclass(frozen=True)
class GenerateWorker:
    """Does generate jobs with the backbone of its process; yields the number of images written. A job that was done to
    its end leaves its timing, with all images that it drew: those of a cell that were there already, too."""

    spec: BackboneSpec
    method: Method
    store: RunStore
    label: str

    def __call__(self, job: GenerateJob) -> Iterator[int]:
        backbone = resident(self.spec)
        claim_weights(self.store, backbone)
        adaptation = load_adaptation(self.store.adaptation(self.label, job.concept.name, job.item))
        cells = sample_cells(job, self.method, self.label, self.store.image)
        with backbone.adapted(adaptation), measured(GENERATE, backbone.device) as meter:
            prompts = [cell[0].prompt for cell in cells]
            encoded = encoded_prompts(self.store.prompts, backbone, adaptation.text_encoder, prompts)
            yield from draw_cells(backbone, cells, encoded)
        timing = {
            "concept": job.concept.name,
            "images": len(job.samples),
            "seconds": meter.cost.total_seconds,
            "peak_memory_bytes": meter.cost.peak_memory_bytes,
        }
        write_json(self.store.timing(self.label, GENERATE, uuid4().hex), timing)


@dataclass(frozen=True)
class Picture:
    """An image to be drawn.

    Attributes:
        prompt: what it shows.
        noise_seed: of its initial noise.
        path: its file.
        record: what the file says about itself.
        wanted: False if it is drawn for the sake of its cell only, and dropped.
    """

    prompt: str
    noise_seed: int
    path: Path
    record: Mapping[str, str]
    wanted: bool


def sample_cells(
    job: GenerateJob, method: Method, label: str, path: Callable[[str, str, str], Path]
) -> list[list[Picture]]:
    """The samples of a job in cells. `path` gives the file of a label, concept and sample id."""

    def picture(sample: Sample) -> Picture:
        subject = method.subject(job.concept, job.concept.knowledge[sample.knowledge])
        prompt = Prompt(sample.prompt, sample.prompt_aspect).fill(subject)
        file = path(label, sample.concept, sample.id)
        record = sample_record(sample, prompt, label)
        return Picture(prompt, sample.noise_seed, file, record, sample.id in job.missing)

    return [[picture(sample) for sample in cell] for _, cell in groupby(job.samples, key=_cell)]


def draw_cells(
    backbone: Backbone, cells: Sequence[Sequence[Picture]], encoded: Callable[[str], PromptEmbeds] | None = None
) -> Iterator[int]:
    """Draw cells with the backbone as it is adapted now, and write the pictures that are wanted. Yields how many, cell
    by cell. The pictures of a cell differ in the noise seed only, and make one batch. `encoded` gives the embeddings of
    their prompts where they are stored already."""
    for start in range(0, len(cells), ENCODED_AHEAD):
        chunk = cells[start : start + ENCODED_AHEAD]
        prompts = dict.fromkeys(cell[0].prompt for cell in chunk)
        embeds = encoded or {prompt: backbone.encode(prompt) for prompt in prompts}.__getitem__
        for cell in chunk:
            images = backbone.sample(embeds(cell[0].prompt), [picture.noise_seed for picture in cell])
            written = [pair for pair in zip(cell, images, strict=True) if pair[0].wanted]
            for picture, image in written:
                write_atomic(picture.path, png_bytes(image, picture.record))
            yield len(written)


def _cell(sample: Sample) -> tuple[int, str, str]:
    return sample.knowledge, sample.task.value, sample.prompt


def sample_record(sample: Sample, prompt: str, label: str) -> dict[str, str]:
    """What the image file of a sample says about itself."""
    return {
        "sample": sample.id,
        "method": label,
        "concept": sample.concept,
        "task": sample.task.value,
        "prompt": prompt,
        "seed": str(sample.seed),
        "noise_seed": str(sample.noise_seed),
    }


def png_bytes(image: Image.Image, record: Mapping[str, str]) -> bytes:
    """The image as PNG with a record in its text chunks."""
    chunks = PngInfo()
    for key, value in record.items():
        chunks.add_itxt(key, value)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=chunks, compress_level=PNG_COMPRESSION)
    return buffer.getvalue()
