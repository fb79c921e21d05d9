"""Drawing images: batches are claimed, halved when memory is short, and retried when they fail."""

import io
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from uuid import uuid4
from weakref import WeakKeyDictionary

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from knowcusbench.adapters.cost import measured
from knowcusbench.adapters.types import Adapter, Cost
from knowcusbench.backbone.base import Backbone, PromptEmbeds
from knowcusbench.engine.base import WorkerBroken
from knowcusbench.errors import PictureError, UserError
from knowcusbench.machine.out_of_memory import free_memory, is_out_of_memory
from knowcusbench.run.layout import RunStore
from knowcusbench.storage.claims import Claim
from knowcusbench.storage.files import is_remote, remove, remove_leftovers, write_atomic
from knowcusbench.storage.tables import append_line, write_json

PNG_COMPRESSION = 6
"""Compression level of PNG files. Fixed, so that an image drawn again has the same bytes."""

ENCODED_AHEAD = 512
"""Number of prompts encoded before the transformer runs: enough to keep the encoder busy, few enough for memory (about
0.5 MB of embeddings a prompt at full size)."""


@dataclass(frozen=True)
class Picture:
    """An image to be drawn.

    Attributes:
        id: an id of its content, by which it is claimed and recorded.
        prompt: the prompt it is drawn from.
        noise_seed: the seed of its initial noise.
        path: its file.
        record: the text chunks of its file.
        wanted: False if it is drawn only to complete its cell, and then dropped.
    """

    id: str
    prompt: str
    noise_seed: int
    path: Path
    record: Mapping[str, str]
    wanted: bool

    @property
    def missing(self) -> bool:
        return self.wanted and not self.path.exists()


@dataclass(frozen=True)
class Outcome:
    """The outcome of drawing a cell.

    Attributes:
        written: number of images written.
        failed: ids of the images that could not be drawn.
        busy: whether another process holds the cell.
    """

    written: int = 0
    failed: tuple[str, ...] = ()
    busy: bool = False


@dataclass(frozen=True)
class WorkLog:
    """The claims and records of a stage's drawing.

    Attributes:
        label, stage: the method's name in the run, and the stage's.
        retries: number of times that a failed image is tried again.
    """

    store: RunStore
    label: str
    stage: str
    retries: int

    def write(self, concept: str, **entry: object) -> None:
        """Append a line to this process's journal."""
        line = {"stage": self.stage, "concept": concept, **entry}
        append_line(self.store.journal(self.label, _worker()), line)


@lru_cache(maxsize=1)
def _worker() -> str:
    """Return a unique name for this process."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"


def draw_cells(
    backbone: Backbone,
    cells: Sequence[Sequence[Picture]],
    log: WorkLog,
    *,
    concept: str = "",
    text_encoder: Adapter | None = None,
) -> Iterator[Outcome]:
    """Draw cells with the backbone in its present adaptation, write the missing images, and yield each cell's outcome.

    `text_encoder` is the adapter of the backbone's text encoder. The images of a cell differ only in the noise seed and
    make one batch: on a GPU the batch size can change an image's last bits. A cell is written, and its claim held,
    while the next one is drawn.
    """
    claims = log.store.claims(log.label, log.stage)
    sizer = SIZERS.setdefault(backbone, BatchSizer())
    with BackgroundWriter() as writer:
        for start in range(0, len(cells), ENCODED_AHEAD):
            chunk = [cell for cell in cells[start : start + ENCODED_AHEAD] if any(picture.missing for picture in cell)]
            with measured(log.stage, backbone.device) as encoding:
                prompts = list(dict.fromkeys(cell[0].prompt for cell in chunk))
                embeds = _encoded(backbone, text_encoder, prompts, log.store)
            if chunk:
                log.write(concept, prompts=len(prompts), seconds=encoding.cost.total_seconds)
            for cell in chunk:
                with ExitStack() as held:
                    claim = held.enter_context(claims.of(cell[0].id))
                    if not claim:
                        yield Outcome(busy=True)
                    elif any(picture.missing for picture in cell):
                        result = _draw_cell(backbone, embeds(cell[0].prompt), cell, log, sizer)
                        yield from writer.written()
                        writer.write(partial(_keep, result, cell, log, concept, claim), held.pop_all())
            # Wait before the next line of the journal, which has one writer.
            yield from writer.written()


class BackgroundWriter:
    """A thread that writes one cell while the caller draws the next: PNGs are packed and flushed in the background.

    On exit, also after an error, it waits for the pending write. Call `written()` before the next `write()`.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "writer")
        self._pending: Future[Outcome] | None = None

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def write(self, keep: Callable[[], Outcome], held: ExitStack) -> None:
        """Start to write, and release `held` at the end."""

        def work() -> Outcome:
            with held:
                return keep()

        self._pending = self._thread.submit(work)

    def written(self) -> Iterator[Outcome]:
        """Wait for the pending write, if any, and yield its outcome; raises its error."""
        if pending := self._pending:
            self._pending = None
            yield pending.result()


def _encoded(
    backbone: Backbone, text_encoder: Adapter | None, prompts: Sequence[str], store: RunStore
) -> Callable[[str], PromptEmbeds]:
    """Return a lookup of embeddings by prompt.

    They are kept in the run and mapped into memory from there, except on an object store, which can't be mapped.
    """
    from knowcusbench.backbone.prompt_store import encoded_prompts

    if is_remote(store.root):
        return {prompt: backbone.encode(prompt) for prompt in prompts}.__getitem__
    return encoded_prompts(store.prompts, backbone, text_encoder, prompts)


@dataclass(frozen=True)
class DrawnCell:
    """A cell after drawing.

    Attributes:
        images: images by picture id.
        batches: sizes of the batches.
        errors: errors of the other pictures, by id.
        cost: the cost of drawing.
    """

    images: Mapping[str, Image.Image]
    batches: Sequence[int]
    errors: Mapping[str, Mapping[str, object]]
    cost: Cost


def _draw_cell(
    backbone: Backbone, embeds: PromptEmbeds, cell: Sequence[Picture], log: WorkLog, sizer: "BatchSizer"
) -> DrawnCell:
    with measured(log.stage, backbone.device) as meter:
        images, sizes, errors = _images(backbone, embeds, cell, log.retries, sizer)
    return DrawnCell(images, sizes, errors, meter.cost)


def _keep(result: DrawnCell, cell: Sequence[Picture], log: WorkLog, concept: str, claim: Claim) -> Outcome:
    """Write the missing images of a cell, unless another process has taken it over."""
    failed = tuple(picture.id for picture in cell if picture.id in result.errors and picture.missing)
    written = [picture for picture in cell if picture.id in result.images and picture.missing]
    if not claim.holds():
        return Outcome(busy=True)
    remove_leftovers(picture.path for picture in written)
    for picture in written:
        write_atomic(picture.path, png_bytes(result.images[picture.id], picture.record))
        remove(log.store.failure(log.label, picture.id))
    for name in failed:
        failure = {"stage": log.stage, "concept": concept, **result.errors[name]}
        write_json(log.store.failure(log.label, name), failure)
    log.write(
        concept,
        images=len(result.images),
        written=[picture.id for picture in written],
        failed=list(failed),
        batches=list(result.batches),
        seconds=result.cost.total_seconds,
        peak_memory_bytes=result.cost.peak_memory_bytes,
    )
    return Outcome(written=len(written), failed=failed)


class BatchSizer:
    """The largest batch that fitted in memory, as far as it is known."""

    def __init__(self) -> None:
        self.limit: int | None = None

    def draw(
        self, backbone: Backbone, embeds: PromptEmbeds, noise_seeds: Sequence[int]
    ) -> tuple[list[Image.Image], list[int]]:
        """Return the images by noise seed, in order, and the sizes of their batches.

        If memory is short, this batch and all later ones are drawn in halves.
        """
        images: list[Image.Image] = []
        sizes: list[int] = []
        while len(images) < len(noise_seeds):
            batch = noise_seeds[len(images) :][: self.limit]
            try:
                images += backbone.sample(embeds, batch)
                sizes.append(len(batch))
                continue
            except Exception as error:
                if not is_out_of_memory(error) or len(batch) == 1:
                    raise
            # Outside of `except`: the exception keeps the tensors that filled the memory alive.
            self.limit = len(batch) // 2
            free_memory()
        return images, sizes


SIZERS: WeakKeyDictionary[Backbone, BatchSizer] = WeakKeyDictionary()
"""The batch sizer of every backbone of this process, so that the next job starts with the known limit."""


def _images(
    backbone: Backbone, embeds: PromptEmbeds, cell: Sequence[Picture], retries: int, sizer: BatchSizer
) -> tuple[dict[str, Image.Image], list[int], dict[str, dict[str, object]]]:
    """Return images by picture id, the sizes of their batches, and the errors of the other pictures.

    If a batch fails, its pictures are drawn one by one. A picture that fails alone is tried `retries` times more.
    """
    try:
        images, sizes = sizer.draw(backbone, embeds, [picture.noise_seed for picture in cell])
        return dict(zip((picture.id for picture in cell), images, strict=True)), sizes, {}
    except Exception as error:
        _refuse_hopeless(error)
    drawn: dict[str, Image.Image] = {}
    sizes = []
    errors: dict[str, dict[str, object]] = {}
    for picture in cell:
        for attempt in range(1 + retries):
            free_memory()
            try:
                (drawn[picture.id],), single = sizer.draw(backbone, embeds, [picture.noise_seed])
                sizes += single
                errors.pop(picture.id, None)
                break
            except Exception as error:
                _refuse_hopeless(error)
                errors[picture.id] = {
                    "error": f"{type(error).__name__}: {error}",
                    "attempts": attempt + 1,
                    "prompt": picture.prompt,
                    "noise_seed": picture.noise_seed,
                    "traceback": traceback.format_exc(),
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                }
                if isinstance(error, PictureError):
                    # Another attempt would give the same numbers.
                    break
    return drawn, sizes, errors


def _refuse_hopeless(error: Exception) -> None:
    """Raise an error that every other picture would meet too: a user error, or a GPU that no longer answers."""
    import torch

    if isinstance(error, UserError) and not isinstance(error, PictureError):
        raise error
    # CUDA reports a full memory and a broken device with the same words: "CUDA error".
    if is_out_of_memory(error):
        return
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error):
        raise WorkerBroken(f"the GPU failed ({error})") from error


def png_bytes(image: Image.Image, record: Mapping[str, str]) -> bytes:
    """Return the image as PNG with a record in its text chunks."""
    chunks = PngInfo()
    for key, value in record.items():
        chunks.add_itxt(key, value)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=chunks, compress_level=PNG_COMPRESSION)
    return buffer.getvalue()
