"""Whether pictures show their own concept: the nearest one by mean reference embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from knowcusbench.metrics.protocol import mean_direction

if TYPE_CHECKING:
    from torch import Tensor


def mean_embeddings(references: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each concept's mean reference embedding (dim,), of unit norm, from unit-norm embeddings (references, dim)."""
    return {concept: mean_direction(embeddings) for concept, embeddings in references.items()}


def nearest_concept(image: Tensor, means: Mapping[str, Tensor]) -> str:
    """The concept whose mean embedding has the highest cosine with `image` (dim,); the first of several equal ones."""
    return max(means, key=lambda concept: float(means[concept] @ image.double()))


def reference_accuracy(references: Mapping[str, Tensor]) -> dict[str, float]:
    """By concept, the share of its reference images that are nearest to their own concept, each left out of its own
    mean. NaN for a concept with fewer than two: what the encoder can tell apart at best."""
    import torch

    means = mean_embeddings(references)
    accuracy = {}
    for concept, embeddings in references.items():
        hits = []
        for number in range(len(embeddings) if len(embeddings) > 1 else 0):
            rest = torch.cat([embeddings[:number], embeddings[number + 1 :]])
            hits.append(nearest_concept(embeddings[number], means | mean_embeddings({concept: rest})) == concept)
        accuracy[concept] = sum(hits) / len(hits) if hits else float("nan")
    return accuracy


def confusion_matrix(concept: Sequence[str], nearest: Sequence[str], concepts: Sequence[str]) -> pd.DataFrame:
    """Pictures by the concept they were asked for (rows) and the nearest one (columns), both in the order of
    `concepts`."""
    counts = pd.crosstab(pd.Series(concept, dtype=str), pd.Series(nearest, dtype=str))
    return counts.reindex(index=list(concepts), columns=list(concepts), fill_value=0)


def retrieval_accuracy(confusion: pd.DataFrame) -> float:
    """The share of pictures whose nearest concept is their own: of each concept, then the mean over concepts that have
    pictures (NaN if none has)."""
    totals = confusion.sum(axis=1)
    own = pd.Series({concept: confusion.loc[concept, concept] for concept in confusion.index}, dtype=float)
    return float((own / totals)[totals > 0].mean())
