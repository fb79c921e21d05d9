"""PickScore: what people would prefer, as predicted from image and prompt."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.benchmark.types import Task
from knowcusbench.metrics.base import Metric, Score, ScoreItem, finite_score
from knowcusbench.metrics.clip_t import scaled_cosine, truncation_note
from knowcusbench.metrics.clip_transformers import TransformersClipSpec


@dataclass(frozen=True, kw_only=True)
class PickScore(Metric):
    """`exp(logit_scale) * <image, text>` with PickScore's CLIP-H (arXiv 2305.01569), about 20 for its
    checkpoint.

    The text is the prompt with the class noun in the place of the concept, cut to the context length if it
    is longer (the score's note says so).

    Attributes:
        encoder: the preference model.
    """

    name: ClassVar[str] = "pickscore"
    title: ClassVar[str] = "PickScore"
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.GENERATION})

    encoder: TransformersClipSpec

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        encoder = self.encoder.load()
        scale = math.exp(encoder.logit_scale)
        images = encoder.embed_files([item.image for item in items])
        texts = encoder.embed_texts([item.text for item in items])
        scores = []
        for item in items:
            text = texts[item.text]
            value = scaled_cosine(images[item.image], text.embedding, scale)
            scores.append(finite_score(self, item, value, truncation_note(text, encoder)))
        return scores

    def weights(self) -> Mapping[str, str]:
        return self.encoder.weights()
