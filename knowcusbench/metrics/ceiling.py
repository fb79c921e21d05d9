"""The real-image ceiling: what the reference images themselves score."""

import math
from statistics import fmean

from knowcusbench.benchmark.types import Concept
from knowcusbench.metrics.base import Metric, ScoreItem


def real_image_ceiling(metric: Metric, concept: Concept) -> float:
    """The mean score of a concept's reference images, each against the others (leave one out).

    A generated image that scores higher than photographs of the same subject do among themselves is likely
    a copy of one. NaN for a concept with fewer than two reference images: there is nothing to compare.

    Args:
        metric: one that `uses_references`.
        concept: its text does not matter here.

    Raises what `metric.score` raises; the sample named is "<concept>/<file>".
    """
    if len(concept.images) < 2:
        return math.nan
    items = [
        ScoreItem(
            sample_id=f"{concept.name}/{left_out.name}",
            image=left_out,
            references=tuple(image for image in concept.images if image != left_out),
            text=concept.class_noun,
            class_noun=concept.class_noun,
            concept=concept.name,
        )
        for left_out in concept.images
    ]
    return fmean(score.value for score in metric.score(items))
