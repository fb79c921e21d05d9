"""The contract of image-text encoders: unit-norm embeddings of images and texts, each computed once."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

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

    Files and texts are remembered, so that several metrics that share an encoder read, decode and encode an image
    once in a process.

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
        """Features (images, dim) of one batch of RGB images, preprocessed as the checkpoint says; any norm."""

    @abstractmethod
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Features (texts, dim) of one batch of texts, cut to the context length; any norm."""

    @abstractmethod
    def truncates(self, text: str) -> bool:
        """Whether `text` has more tokens than the context length."""

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit-norm fp32 embeddings (images, dim) on the CPU."""
        with torch.inference_mode():
            return torch.cat([unit_norm(self.image_features(batch)) for batch in self._batches(images)])

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-norm fp32 embeddings (texts, dim) on the CPU."""
        with torch.inference_mode():
            return torch.cat([unit_norm(self.text_features(batch)) for batch in self._batches(texts)])

    def embed_files(self, paths: Sequence[Path]) -> dict[Path, Tensor]:
        """Unit-norm embeddings (dim,) of image files. Raises ImageError for one that can't be read."""
        digests = {path: content_digest(path) for path in dict.fromkeys(paths)}
        path_of = {digest: path for path, digest in digests.items()}
        embeddings = self._images.fetch(
            list(digests.values()), lambda missing: self._encode_files([path_of[digest] for digest in missing])
        )
        return dict(zip(digests, embeddings, strict=True))

    def embed_texts(self, texts: Sequence[str]) -> Mapping[str, TextEmbedding]:
        """Unit-norm embeddings of texts."""
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self._texts.fetch(distinct, self._embed_new_texts), strict=True))

    def _encode_files(self, paths: Sequence[Path]) -> list[Tensor]:
        # Batch by batch, so that no more images are in memory than are encoded together.
        batches = (self.encode_images([read_image(path) for path in batch]) for batch in self._batches(paths))
        return [embedding for batch in batches for embedding in batch]

    def _embed_new_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        embeddings = self.encode_texts(texts)
        return [
            TextEmbedding(embedding, self.truncates(text))
            for text, embedding in zip(texts, embeddings, strict=True)
        ]

    def _batches(self, values: Sequence[T]) -> Iterator[Sequence[T]]:
        for start in range(0, len(values), self._batch_size):
            yield values[start : start + self._batch_size]


def unit_norm(features: Tensor) -> Tensor:
    """Features (n, dim) over their Euclidean norm, in fp32 on the CPU. A zero vector becomes NaN, which no metric
    accepts, rather than a plausible embedding."""
    features = features.float().cpu()
    return features / features.norm(dim=-1, keepdim=True)
