"""CLIP-T: similarity of an image to its prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from knowcusbench.benchmark.types import Task
from knowcusbench.metrics.base import Metric, Score, ScoreItem, finite_score
from knowcusbench.metrics.clip import ClipSpec
from knowcusbench.metrics.encoders import ImageTextEncoder, TextEmbedding


def scaled_cosine(image: Tensor, text: Tensor, scale: float) -> float:
    """`scale * <image, text>` in fp64, for unit-norm embeddings (dim,): a number in [-scale, scale]."""
    return scale * float(image.double() @ text.double())


def truncation_note(text: TextEmbedding, encoder: ImageTextEncoder) -> str:
    """The note of a score whose text was cut to the encoder's context length; empty if it was not."""
    return f"text truncated to {encoder.context_length} tokens" if text.truncated else ""


@dataclass(frozen=True, kw_only=True)
class ClipT(Metric):
    """CLIP cosine of the image with its text, by `scaled_cosine`.

    The text is the prompt with the class noun in the place of the concept. A text that is longer than the
    context is cut as the checkpoint's own tokenizer does it (the end token in the last place), and the
    score's note says so.

    Attributes:
        encoder: the CLIP whose two towers are used.
        scale: the factor on the cosine: 1 as in DreamBooth and the paper, 100 as in DreamBench++.
    """

    name: ClassVar[str] = "clip_t"
    title: ClassVar[str] = "CLIP-T"
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.GENERATION})

    encoder: ClipSpec
    scale: float = 1.0

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        encoder = self.encoder.load()
        images = encoder.embed_files([item.image for item in items])
        texts = encoder.embed_texts([item.text for item in items])
        scores = []
        for item in items:
            text = texts[item.text]
            value = scaled_cosine(images[item.image], text.embedding, self.scale)
            scores.append(finite_score(self, item, value, truncation_note(text, encoder)))
        return scores

    def weights(self) -> Mapping[str, str]:
        return self.encoder.weights()
