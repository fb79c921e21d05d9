"""Interference between concepts: whether images show their own concept, the nearest by mean reference embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from knowcusbench.metrics.protocol import mean_direction

if TYPE_CHECKING:
    from torch import Tensor


def mean_embeddings(references: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each concept's mean reference embedding (dim,), of unit norm, from unit-norm embeddings (references,
    dim)."""
    return {concept: mean_direction(embeddings) for concept, embeddings in references.items()}


def nearest_concept(image: Tensor, means: Mapping[str, Tensor]) -> str:
    """Return the concept whose mean embedding has the highest cosine with `image` (dim,); the first of equal ones.

    `means` come from `mean_embeddings`.

    >>> import torch
    >>> means = mean_embeddings({"dog": torch.tensor([[1.0, 0.0]]), "cat": torch.tensor([[0.0, 1.0]])})
    >>> nearest_concept(torch.tensor([0.6, 0.8]), means)
    'cat'
    """
    return max(means, key=lambda concept: float(means[concept] @ image.double()))


def reference_accuracy(references: Mapping[str, Tensor]) -> dict[str, float]:
    """Return, by concept, the share of its reference images that are nearest to their own concept.

    Each image is left out of its concept's mean, so this is the best that the encoder can tell apart. NaN for a concept
    with fewer than two references.

    >>> import torch
    >>> dogs, cats = torch.tensor([[1.0, 0.0], [0.8, 0.6]]), torch.tensor([[0.0, 1.0]])
    >>> reference_accuracy({"dog": dogs, "cat": cats})
    {'dog': 1.0, 'cat': nan}
    """
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
    """Return counts of images by their prompted concept (rows) and nearest concept (columns), in the order of
    `concepts`.

    >>> confusion_matrix(["dog", "dog", "cat"], ["dog", "cat", "cat"], ["dog", "cat"]).to_numpy()
    array([[1, 1],
           [0, 1]])
    """
    counts = pd.crosstab(pd.Series(concept, dtype=str), pd.Series(nearest, dtype=str))
    return counts.reindex(index=list(concepts), columns=list(concepts), fill_value=0)


def retrieval_accuracy(confusion: pd.DataFrame) -> float:
    """Return the share of images whose nearest concept is their own, as a mean over concepts that have images.

    NaN if none has.

    >>> retrieval_accuracy(confusion_matrix(["dog", "dog", "cat"], ["dog", "cat", "cat"], ["dog", "cat"]))
    0.75
    """
    totals = confusion.sum(axis=1)
    own = pd.Series({concept: confusion.loc[concept, concept] for concept in confusion.index}, dtype=float)
    return float((own / totals)[totals > 0].mean())
