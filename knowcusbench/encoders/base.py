"""The contract of encoders: unit-norm embeddings of images and texts, each computed once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from PIL import Image

from knowcusbench.encoders.batching import PaddedBatches, batches
from knowcusbench.encoders.checkpoint import locate, version
from knowcusbench.encoders.store import MEMORY, EmbeddingStore
from knowcusbench.machine.device import Precision, keep_fp32, resolve_device
from knowcusbench.storage.digests import Memo, content_digest, json_digest
from knowcusbench.storage.images import read_image
from knowcusbench.storage.versions import SPEED, settings

if TYPE_CHECKING:
    from torch import Tensor

READERS = 4
"""Threads that read and preprocess images while other images are encoded."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(ABC):
    """An encoder's configuration: a frozen keyword-only dataclass that may add fields.

    Attributes:
        source: directory or hub id of the checkpoint.
        revision: commit, tag or branch of the hub repository.
        device: "auto", "cpu" or "cuda".
        dtype: dtype of the weights; embeddings are always normalised in fp32.
        batch_size: images or texts encoded together.
        store: directory where embeddings of image files are kept for all processes; null for memory only.
        files: names or globs of the weight files, for `locate`.
        version: raised by the author when the same settings and weights give other embeddings.
    """

    version: ClassVar[int] = 1
    files: ClassVar[tuple[str, ...]] = ()

    source: str
    revision: str | None = None
    device: str = field(default="auto", metadata=SPEED)
    dtype: Precision = Precision.float32
    batch_size: int = field(default=64, metadata=SPEED)
    store: str | None = field(default=None, metadata=SPEED)

    @abstractmethod
    def build(self) -> ImageEncoder:
        """Load the encoder. Raises WeightsError if it can't be loaded."""

    def weights(self) -> Mapping[str, str]:
        """Return the checkpoint's version by source, as in `Metric.weights`."""
        return {self.source: version(locate(self.source, self.revision, self.files))}

    def load(self) -> Any:
        """Return this process's encoder for this specification. Raises WeightsError if it can't be loaded."""
        return _load(self)

    @property
    def key(self) -> str:
        """Digest (16 hex digits) of everything that determines an embedding: class and version, settings and
        weights."""
        return json_digest([settings(self), sorted(self.weights().items())], 16)


@cache
def _load(spec: EncoderSpec) -> ImageEncoder:
    return spec.build()


class ImageEncoder(ABC):
    """A resident image encoder.

    Image files are read, decoded and encoded once per content: shared by all metrics that use the encoder, and with a
    `store` by all processes.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        self._batches = PaddedBatches(spec.batch_size, spec.device)
        keep_fp32(resolve_device(spec.device), spec.dtype)
        self._kept = EmbeddingStore(Path(spec.store).expanduser() / spec.key if spec.store else None)

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Tensor:
        """Return the pixels (3, height, width) that the checkpoint expects for an RGB image, in fp32 on the CPU.

        Called from several threads.
        """

    @abstractmethod
    def image_features(self, pixels: Tensor) -> Tensor:
        """Return features (images, dim), of any norm, of one batch of preprocessed images (images, 3, height,
        width)."""

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit-norm fp32 embeddings (images, dim) on the CPU, of at least one image."""
        return self._encode(images, self.preprocess)

    def embed_files(self, paths: Sequence[Path]) -> dict[Path, Tensor]:
        """Return unit-norm fp32 embeddings (dim,) of image files. Raises ImageError for a file that can't be read."""
        import torch

        digests = {path: content_digest(path) for path in dict.fromkeys(paths)}
        if not digests:
            return {}
        path_of = {digest: path for path, digest in digests.items()}
        rows = self._kept.fetch(
            list(digests.values()),
            lambda missing: self._encode(
                [path_of[key] for key in missing], lambda path: self.preprocess(read_image(path))
            ).numpy(),
        )
        return dict(zip(digests, torch.from_numpy(rows), strict=True))

    def _encode(self, sources: Sequence[T], read: Callable[[T], Tensor]) -> Tensor:
        # While a batch is encoded, the next one is read; at most these two are in memory.
        import torch

        with ThreadPoolExecutor(READERS) as readers, torch.inference_mode():
            batch_of_pixels = _read_ahead(readers, read, batches(sources, self._batches.size))
            return torch.cat([self._embed(pixels) for pixels in batch_of_pixels])

    def _embed(self, pixels: Sequence[Tensor]) -> Tensor:
        import torch

        features = self._batches.run(lambda batch: self.image_features(torch.stack(batch)), pixels)
        return unit_norm(torch.cat(list(features)))


@dataclass(frozen=True)
class TextEmbedding:
    """A text's embedding (dim,), and whether the text was truncated to fit the encoder's context."""

    embedding: Tensor
    truncated: bool


class ImageTextEncoder(ImageEncoder):
    """A resident pair of image and text towers with a common embedding space.

    Attributes:
        context_length: tokens of the text tower, start and end tokens included.
    """

    context_length: int

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(spec)
        self._texts: Memo[str, TextEmbedding] = Memo(MEMORY)

    @abstractmethod
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Return features (texts, dim), of any norm, of one batch of texts truncated to the context length."""

    @abstractmethod
    def truncates(self, text: str) -> bool:
        """Return whether `text` has more tokens than the context length."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit-norm fp32 embeddings (texts, dim) on the CPU, of at least one text."""
        import torch

        with torch.inference_mode():
            return unit_norm(torch.cat(list(self._batches.run(self.text_features, texts))))

    def embed_texts(self, texts: Sequence[str]) -> Mapping[str, TextEmbedding]:
        """Return unit-norm embeddings of texts."""
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self._texts.fetch(distinct, self._embed_new_texts), strict=True))

    def _embed_new_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        embeddings = self.encode_texts(texts)
        return [
            TextEmbedding(embedding, self.truncates(text)) for text, embedding in zip(texts, embeddings, strict=True)
        ]


def _read_ahead(readers: Executor, read: Callable[[T], Tensor], parts: Iterator[Sequence[T]]) -> Iterator[list[Tensor]]:
    """Yield each part's values, reading the next part in the background."""
    pending = None
    for part in chain(parts, [None]):
        reading = [readers.submit(read, source) for source in part] if part else None
        if pending:
            yield [future.result() for future in pending]
        pending = reading


def unit_norm(features: Tensor) -> Tensor:
    """Return features (n, dim) divided by their Euclidean norm, in fp32 on the CPU.

    A zero vector becomes NaN, which every metric rejects, rather than a plausible embedding.

    >>> import torch
    >>> unit_norm(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 1.0000]])
    """
    import torch

    features = features.float().cpu()
    norms: Tensor = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return features / norms
