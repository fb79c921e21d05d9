"""CLIP-I-Seg: CLIP-I of the segmented subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from knowcusbench.encoders.base import EncoderSpec, ImageEncoder
from knowcusbench.encoders.batching import batches
from knowcusbench.encoders.segmenters.base import Fallback, Segmentation, SegmenterSpec
from knowcusbench.encoders.segmenters.compositing import cut_out
from knowcusbench.encoders.segmenters.mask_store import MaskStore
from knowcusbench.encoders.store import EmbeddingStore, Rows
from knowcusbench.errors import ConfigError
from knowcusbench.metrics.base import Score, ScoreItem, finite_score
from knowcusbench.metrics.bounds import Bounds, cosine_bounds
from knowcusbench.metrics.image_similarity import ReferenceMetric
from knowcusbench.metrics.protocol import ReferencePairing, paired_cosine
from knowcusbench.storage.digests import content_digest, json_digest
from knowcusbench.storage.images import read_image
from knowcusbench.storage.versions import versioned

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 16
"""Images held in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class ClipISeg(ReferenceMetric):
    """Cosine of the segmented image's embedding with those of the segmented references, by `paired_cosine`.

    The background of all images is replaced by one colour before the encoder's own preprocessing. The paper states
    neither the colour nor whether it crops; this harness also gives white to transparency everywhere. An image in which
    the subject is not found counts whole, and the score's note says so; the details hold the share of the image that
    its mask covers. Masks are stored next to the embeddings.

    Attributes:
        encoder: image encoder.
        pairing: how several references are combined.
        scale: the factor on the cosine.
        segmenter: finds the subject.
        background: the colour of the background, 0 to 255 per channel.
        crop: whether to crop to the bounding box of the subject.
    """

    name: ClassVar[str] = "clip_i_seg"
    title: ClassVar[str] = "CLIP-I-Seg"

    encoder: EncoderSpec
    pairing: ReferencePairing = ReferencePairing.all
    scale: float = 1.0
    segmenter: SegmenterSpec
    background: tuple[int, int, int] = (255, 255, 255)
    crop: bool = False

    def __post_init__(self) -> None:
        if not all(0 <= channel <= 255 for channel in self.background):
            raise ConfigError(f"{self.name}.background: channels are 0 to 255, found {list(self.background)}")

    @property
    def bounds(self) -> Bounds:
        return cosine_bounds(self.scale)

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        import torch

        references = [item.compared(self, self.references) for item in items]
        nouns = [item.reference_noun or item.class_noun for item in items]
        subjects = {(item.image, item.class_noun): None for item in items} | {
            (file, noun): None for files, noun in zip(references, nouns, strict=True) for file in files
        }
        embeddings = _embedder(self).embed(list(subjects))
        scores = []
        for item, files, noun in zip(items, references, nouns, strict=True):
            image, compared = embeddings[item.image, item.class_noun], [embeddings[file, noun] for file in files]
            cosine = paired_cosine(image.embedding, torch.stack([one.embedding for one in compared]), self.pairing)
            details = {"coverage": image.coverage}
            scores.append(
                finite_score(self, item, self.scale * cosine, _note(image, compared, item.class_noun), details)
            )
        return scores

    def masks(self) -> MaskStore | None:
        store = self.encoder.store
        return MaskStore(Path(store).expanduser() / "masks", self.segmenter) if store else None

    def weights(self) -> Mapping[str, str]:
        return {**self.encoder.weights(), **self.segmenter.weights()}


@dataclass(frozen=True)
class SubjectEmbedding:
    """The embedding of a segmented image.

    Attributes:
        embedding: unit-norm (dim,).
        coverage: share of the image that the mask covers.
        fallback: why the mask is the whole image, if the subject was not found.
    """

    embedding: Tensor
    coverage: float
    fallback: Fallback


class SubjectEmbedder:
    """Segments and encodes image files, each once: per process, or with the encoder's `store` for all processes."""

    def __init__(self, metric: ClipISeg) -> None:
        self._metric = metric
        self._encoder: ImageEncoder = metric.encoder.load()
        self._segmenter = metric.segmenter.load()
        store = metric.encoder.store
        self._kept = EmbeddingStore(Path(store).expanduser() / self._key() if store else None)
        self._masks = metric.masks()

    def _key(self) -> str:
        """Return 16 hex digits over everything that determines a row; the metric's version covers the compositing
        code."""
        metric = self._metric
        content = [metric.encoder.key, metric.segmenter.key, metric.background, metric.crop, *versioned(metric)]
        return json_digest(content, 16)

    def embed(self, subjects: Sequence[tuple[Path, str]]) -> dict[tuple[Path, str], SubjectEmbedding]:
        """Return embeddings of subjects, each an image file and the class noun of the subject to find in it."""
        import torch

        keys = [f"{content_digest(file)} {noun}" for file, noun in subjects]
        subject_of = dict(zip(keys, subjects, strict=True))
        rows = self._kept.fetch(keys, lambda missing: self._rows([subject_of[key] for key in missing]))
        return {
            subject: SubjectEmbedding(torch.from_numpy(row[:-2]), float(row[-2]), Fallback(int(row[-1])))
            for subject, row in zip(subjects, rows, strict=True)
        }

    def _rows(self, subjects: Sequence[tuple[Path, str]]) -> Rows:
        """Return one row per subject: embedding, coverage and fallback."""
        parts = []
        for noun, group in groupby(subjects, key=lambda subject: subject[1]):
            for batch in batches([file for file, _ in group], CHUNK):
                images = [read_image(file) for file in batch]
                found = self._segmenter.segment(images, noun)
                # Stored before the embeddings: an image that has an embedding is not segmented again.
                for file, one in zip(batch, found, strict=True):
                    if self._masks:
                        self._masks.keep(content_digest(file), noun, one.mask)
                metric = self._metric
                cut = [
                    cut_out(image, one.mask, metric.background, metric.crop)
                    for image, one in zip(images, found, strict=True)
                ]
                parts.append(np.hstack([self._encoder.encode_images(cut).numpy(), _facts(found)]))
        return np.concatenate(parts)


def _facts(found: Sequence[Segmentation]) -> Rows:
    return np.array([(one.mask.mean(), one.fallback) for one in found], dtype=np.float32)


@cache
def _embedder(metric: ClipISeg) -> SubjectEmbedder:
    return SubjectEmbedder(metric)


def _note(image: SubjectEmbedding, references: Sequence[SubjectEmbedding], class_noun: str) -> str:
    whole = sum(one.fallback is not Fallback.NONE for one in references)
    of_references = f"{whole} of {len(references)} references whole" if whole else ""
    return "; ".join(filter(None, [image.fallback.note(class_noun), of_references]))
