"""Similarity of an image to its prompt: the common part of CLIP-T and the preference models."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.benchmark.types import Task
from knowcusbench.encoders.base import EncoderSpec, ImageTextEncoder
from knowcusbench.metrics.base import Metric, Score, ScoreItem, Shuffle, finite_score, text_of
from knowcusbench.metrics.bounds import Bounds, cosine_bounds
from knowcusbench.metrics.protocol import TextForm, scaled_cosine


@dataclass(frozen=True, kw_only=True)
class TextSimilarity(Metric):
    """Scaled cosine of the image's embedding and its text's embedding, by `scaled_cosine`.

    A text longer than the context is truncated by the checkpoint's own tokenizer, and the score's note says so.

    Attributes:
        encoder: encoder of images and texts.
        text_form: the words that stand for the concept in the text.
        clamp: whether negative cosines count as zero.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({Task.GENERATION})
    shuffle: ClassVar[Shuffle] = Shuffle.PROMPTS

    encoder: EncoderSpec
    text_form: TextForm = TextForm.class_noun
    clamp: bool = False

    @property
    def bounds(self) -> Bounds:
        return cosine_bounds(self.factor(), clamp=self.clamp)

    @abstractmethod
    def factor(self) -> float:
        """Return the factor on the cosine."""

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        texts = [text_of(item, self.text_form) for item in items]
        encoder: ImageTextEncoder = self.encoder.load()
        images, embeddings = encoder.embed_files([item.image for item in items]), encoder.embed_texts(texts)
        factor, note = self.factor(), f"text truncated to {encoder.context_length} tokens"
        scores = []
        for item, text in zip(items, texts, strict=True):
            embedded = embeddings[text]
            value = scaled_cosine(images[item.image], embedded.embedding, factor, self.clamp)
            scores.append(finite_score(self, item, value, note if embedded.truncated else ""))
        return scores

    def weights(self) -> Mapping[str, str]:
        return self.encoder.weights()
