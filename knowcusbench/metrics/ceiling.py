"""The real-image ceiling: the score of the reference images themselves."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from knowcusbench.benchmark.types import Concept
from knowcusbench.metrics.base import Metric, ScoreItem


def real_image_ceiling(metric: Metric, concept: Concept, gallery: Mapping[str, tuple[Path, ...]]) -> float:
    """Return the mean score of a concept's reference images, each against the others (leave one out).

    A generated image that scores higher than photographs of the same subject among themselves is likely a copy of one.
    NaN for a concept with too few reference images.

    Args:
        metric: one that `uses_references`.
        concept: the concept; its knowledge and prompts are not used.
        gallery: the reference images of all concepts by name.

    Raises what `metric.score` raises; the sample named is "<concept>/<file>".
    """
    if len(concept.images) <= metric.least_references:
        return math.nan
    items = [
        ScoreItem(
            sample_id=f"{concept.name}/{left_out.name}",
            image=left_out,
            references=tuple(image for image in concept.images if image != left_out),
            prompt=concept.class_noun,
            class_noun=concept.class_noun,
            concept=concept.name,
            held_out=concept.held_out,
            gallery=gallery,
        )
        for left_out in concept.images
    ]
    return fmean(score.value for score in metric.score(items))
