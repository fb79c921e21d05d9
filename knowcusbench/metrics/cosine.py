"""Scores that are cosines: of an image with reference images, and of an image with a text."""

from collections.abc import Sequence

import torch

from knowcusbench.metrics.base import Metric, Score, ScoreItem, finite_score, require_references
from knowcusbench.metrics.clip_i import mean_cosine
from knowcusbench.metrics.clip_t import scaled_cosine, truncation_note
from knowcusbench.metrics.encoders import ImageEncoder, ImageTextEncoder


def reference_scores(metric: Metric, encoder: ImageEncoder, items: Sequence[ScoreItem]) -> list[Score]:
    """The mean cosine of each image with all its reference images, by `mean_cosine`. Raises as `Metric.score` does."""
    require_references(metric, items)
    embeddings = encoder.embed_files([file for item in items for file in (item.image, *item.references)])
    scores = []
    for item in items:
        references = torch.stack([embeddings[file] for file in item.references])
        scores.append(finite_score(metric, item, mean_cosine(embeddings[item.image], references)))
    return scores


def text_scores(metric: Metric, encoder: ImageTextEncoder, items: Sequence[ScoreItem], scale: float) -> list[Score]:
    """`scale` times the cosine of each image with its text, by `scaled_cosine`; a score whose text was cut says so.
    Raises as `Metric.score` does."""
    images = encoder.embed_files([item.image for item in items])
    texts = encoder.embed_texts([item.text for item in items])
    scores = []
    for item in items:
        text = texts[item.text]
        value = scaled_cosine(images[item.image], text.embedding, scale)
        scores.append(finite_score(metric, item, value, truncation_note(text, encoder)))
    return scores
