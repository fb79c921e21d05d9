"""The contract of image-text encoders: unit-norm embeddings of images and texts, each computed once."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from knowcusbench.errors import ConfigError
from knowcusbench.images import read_image
from knowcusbench.metrics.memo import Memo, content_digest

MEMORY = 1 << 15
"""Embeddings of each kind that an encoder remembers: 128 MiB at 1024 dimensions."""

T = TypeVar("T")


@dataclass(frozen=True)
class TextEmbedding:
    """A text's embedding (dim,), and whether the text was cut to fit the encoder's context."""

    embedding: Tensor
    truncated: bool


class ImageTextEncoder(ABC):
    """A resident pair of an image and a text tower with a common embedding space.

    Files and texts are remembered, so that several metrics that share an encoder read, decode and encode an
    image once in a process.

    Attributes:
        context_length: tokens of the text tower, start and end tokens included.
    """

    context_length: int

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._images: Memo[str, Tensor] = Memo(MEMORY)
        self._texts: Memo[str, TextEmbedding] = Memo(MEMORY)

    @abstractmethod
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Features (images, dim) of one batch of RGB images, preprocessed for the checkpoint. Any norm."""

    @abstractmethod
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Features (texts, dim) of one batch of texts, cut to the context length. Any norm."""

    @abstractmethod
    def truncates(self, text: str) -> bool:
        """Whether `text` has more tokens than the context length."""

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit-norm fp32 embeddings (images, dim) on the CPU, of at least one image."""
        with torch.inference_mode():
            features = [self.image_features(batch) for batch in batches(images, self._batch_size)]
            return unit_norm(torch.cat(features))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-norm fp32 embeddings (texts, dim) on the CPU, of at least one text."""
        with torch.inference_mode():
            features = [self.text_features(batch) for batch in batches(texts, self._batch_size)]
            return unit_norm(torch.cat(features))

    def embed_files(self, paths: Sequence[Path]) -> dict[Path, Tensor]:
        """Unit-norm embeddings (dim,) of image files. Raises ImageError for one that can't be read."""
        digests = {path: content_digest(path) for path in dict.fromkeys(paths)}
        path_of = {digest: path for path, digest in digests.items()}
        embeddings = self._images.fetch(
            list(digests.values()), lambda missing: self._encode_files([path_of[key] for key in missing])
        )
        return dict(zip(digests, embeddings, strict=True))

    def embed_texts(self, texts: Sequence[str]) -> Mapping[str, TextEmbedding]:
        """Unit-norm embeddings of texts."""
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self._texts.fetch(distinct, self._embed_new_texts), strict=True))

    def _encode_files(self, paths: Sequence[Path]) -> list[Tensor]:
        # Batch by batch, so that no more images are in memory than are encoded together.
        return [
            embedding
            for batch in batches(paths, self._batch_size)
            for embedding in self.encode_images([read_image(path) for path in batch])
        ]

    def _embed_new_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        embeddings = self.encode_texts(texts)
        return [
            TextEmbedding(embedding, self.truncates(text)) for text, embedding in zip(texts, embeddings, strict=True)
        ]


def batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive parts of at most `size` values. Raises ConfigError for a size that is not positive."""
    if size < 1:
        raise ConfigError(f"batch_size: {size} is not a positive number")
    for start in range(0, len(values), size):
        yield values[start : start + size]


def unit_norm(features: Tensor) -> Tensor:
    """Features (n, dim) over their Euclidean norm, in fp32 on the CPU. A zero vector becomes NaN, which no
    metric accepts, rather than a plausible embedding."""
    features = features.float().cpu()
    norms: Tensor = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return features / norms
