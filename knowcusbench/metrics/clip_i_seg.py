"""CLIP-I-Seg: CLIP-I of the subjects alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from knowcusbench.errors import ConfigError
from knowcusbench.images import read_image
from knowcusbench.metrics.base import Metric, Score, ScoreItem, finite_score, require_references
from knowcusbench.metrics.clip import ClipSpec
from knowcusbench.metrics.clip_i import mean_cosine
from knowcusbench.metrics.embeddings import MEMORY
from knowcusbench.metrics.encoders import batches
from knowcusbench.metrics.memo import Memo, content_digest
from knowcusbench.metrics.segmentation import SegmenterSpec, cut_out

CHUNK = 16
"""Images held in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class ClipISeg(Metric):
    """Mean CLIP cosine of the segmented image with every segmented reference image, by `mean_cosine`.

    On both sides the background is replaced by one colour before CLIP's own preprocessing. The paper states
    neither the colour nor whether it crops; white is the colour that this harness gives transparency
    everywhere. An image in which the subject is not found counts whole, and the score's note says so.

    Attributes:
        encoder: the CLIP whose image tower is used.
        segmenter: what finds the subject.
        background: the colour of the background, 0 to 255 a channel.
        crop: whether to crop to the bounding box of the subject.
    """

    name: ClassVar[str] = "clip_i_seg"
    title: ClassVar[str] = "CLIP-I-Seg"
    uses_references: ClassVar[bool] = True

    encoder: ClipSpec
    segmenter: SegmenterSpec
    background: tuple[int, int, int] = (255, 255, 255)
    crop: bool = False

    def __post_init__(self) -> None:
        if not all(0 <= channel <= 255 for channel in self.background):
            raise ConfigError(f"{self.name}.background: channels are 0 to 255, found {list(self.background)}")

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        require_references(self, items)
        subjects = {(file, item.class_noun): None for item in items for file in (item.image, *item.references)}
        embeddings = _embedder(self).embed(list(subjects))
        scores = []
        for item in items:
            image = embeddings[item.image, item.class_noun]
            references = [embeddings[file, item.class_noun] for file in item.references]
            value = mean_cosine(image.embedding, torch.stack([one.embedding for one in references]))
            scores.append(finite_score(self, item, value, _note(image, references)))
        return scores

    def weights(self) -> Mapping[str, str]:
        return {**self.encoder.weights(), **self.segmenter.weights()}


@dataclass(frozen=True)
class SubjectEmbedding:
    """The unit-norm embedding (dim,) of a segmented image, and the segmentation's note."""

    embedding: Tensor
    note: str


class SubjectEmbedder:
    """Segments and encodes image files, each once in a process."""

    def __init__(self, metric: ClipISeg) -> None:
        self._metric = metric
        self._encoder = metric.encoder.load()
        self._segmenter = metric.segmenter.load()
        self._memo: Memo[tuple[str, str], SubjectEmbedding] = Memo(MEMORY)

    def embed(self, subjects: Sequence[tuple[Path, str]]) -> dict[tuple[Path, str], SubjectEmbedding]:
        """Embeddings of subjects, each an image file and the class noun of what to find in it."""
        keys = [(content_digest(file), noun) for file, noun in subjects]
        file_of = {key: file for key, (file, _) in zip(keys, subjects, strict=True)}
        embeddings = self._memo.fetch(
            keys, lambda missing: list(self._embed([(file_of[key], key[1]) for key in missing]))
        )
        return dict(zip(subjects, embeddings, strict=True))

    def _embed(self, subjects: Sequence[tuple[Path, str]]) -> Iterator[SubjectEmbedding]:
        for noun, group in groupby(subjects, key=itemgetter(1)):
            for batch in batches([file for file, _ in group], CHUNK):
                images = [read_image(file) for file in batch]
                segmentations = self._segmenter.segment(images, noun)
                cut = [
                    cut_out(image, one.mask, self._metric.background, self._metric.crop)
                    for image, one in zip(images, segmentations, strict=True)
                ]
                for embedding, one in zip(self._encoder.encode_images(cut), segmentations, strict=True):
                    yield SubjectEmbedding(embedding, one.note)


@cache
def _embedder(metric: ClipISeg) -> SubjectEmbedder:
    return SubjectEmbedder(metric)


def _note(image: SubjectEmbedding, references: Sequence[SubjectEmbedding]) -> str:
    whole = sum(bool(one.note) for one in references)
    of_references = f"{whole} of {len(references)} references whole" if whole else ""
    return "; ".join(filter(None, [image.note, of_references]))
