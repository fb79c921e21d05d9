"""The generate stage: draw every sample of the plan with its adaptation."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from knowcusbench.adaptation.method import Method
from knowcusbench.adaptation.storage import load_adaptation
from knowcusbench.backbone.base import Backbone, BackboneSpec
from knowcusbench.benchmark.types import Concept, Prompt
from knowcusbench.errors import RunError
from knowcusbench.files import write_atomic
from knowcusbench.plan import Sample, samples
from knowcusbench.stages.prepare import Run, claim_weights, resident
from knowcusbench.store import RunStore, writing

PNG_COMPRESSION = 6
"""Fixed, so that an image drawn again has the same bytes."""

CELL = ["concept", "task", "knowledge", "prompt"]
"""Samples that share these differ in the seed only; they make one batch."""

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
    total = sum(len(job.missing) for job in jobs)
    worker = partial(GenerateWorker, run.backbone, run.method, run.store, run.label)
    with writing(), tqdm(total=total, desc="generate", unit="image", disable=None) as progress:
        for written in run.engine.run(worker, jobs):
            progress.update(written)


def generate_jobs(run: Run) -> list[GenerateJob]:
    """One job for each adaptation that has missing images, in the order of the plan."""
    missing = ~run.plan["id"].isin(existing_images(run))
    cells = run.plan.groupby(CELL, sort=False, observed=True).ngroup()
    todo, ids = run.plan[cells.isin(cells[missing].unique())], frozenset(run.plan["id"][missing])
    keys = ["concept", "knowledge"] if run.method.per_knowledge else ["concept"]
    jobs = []
    for _, rows in todo.groupby(keys, sort=False, observed=True):
        drawn = tuple(samples(rows))
        item = drawn[0].knowledge if run.method.per_knowledge else None
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
    """Does generate jobs with the backbone of its process; yields the number of images written."""

    spec: BackboneSpec
    method: Method
    store: RunStore
    label: str

    def __call__(self, job: GenerateJob) -> Iterator[int]:
        backbone = resident(self.spec)
        claim_weights(self.store, backbone)
        adaptation = load_adaptation(self.store.adaptation(self.label, job.concept.name, job.item))
        cells = [tuple(group) for _, group in groupby(job.samples, key=_cell)]
        with backbone.adapted(adaptation):
            for start in range(0, len(cells), ENCODED_AHEAD):
                yield from self._draw(backbone, job, cells[start : start + ENCODED_AHEAD])

    def _draw(self, backbone: Backbone, job: GenerateJob, cells: Sequence[tuple[Sample, ...]]) -> Iterator[int]:
        prompts = [self._prompt(job.concept, cell[0]) for cell in cells]
        embeds = {prompt: backbone.encode(prompt) for prompt in dict.fromkeys(prompts)}
        for cell, prompt in zip(cells, prompts, strict=True):
            images = backbone.sample(embeds[prompt], [sample.noise_seed for sample in cell])
            wanted = [pair for pair in zip(cell, images, strict=True) if pair[0].id in job.missing]
            for sample, image in wanted:
                path = self.store.image(self.label, sample.concept, sample.id)
                write_atomic(path, png_bytes(image, sample, prompt, self.label))
            yield len(wanted)

    def _prompt(self, concept: Concept, sample: Sample) -> str:
        subject = self.method.subject(concept, concept.knowledge[sample.knowledge])
        return Prompt(sample.prompt, sample.prompt_aspect).fill(subject)


def _cell(sample: Sample) -> tuple[int, str, str]:
    return sample.knowledge, sample.task.value, sample.prompt


def png_bytes(image: Image.Image, sample: Sample, prompt: str, label: str) -> bytes:
    """The image as PNG with the sample's record in its text chunks."""
    record = {
        "sample": sample.id,
        "method": label,
        "concept": sample.concept,
        "task": sample.task.value,
        "prompt": prompt,
        "seed": str(sample.seed),
        "noise_seed": str(sample.noise_seed),
    }
    chunks = PngInfo()
    for key, value in record.items():
        chunks.add_itxt(key, value)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=chunks, compress_level=PNG_COMPRESSION)
    return buffer.getvalue()
