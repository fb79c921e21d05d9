"""Pictures of one colour: what a model that broke draws. Their scores count, and say so."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.storage.digests import content_digest
from knowcusbench.storage.images import decode_image

NOTE = "picture of one colour"


def score_sound(metric: Metric, items: Sequence[ScoreItem], faults: Sequence[str]) -> list[Score]:
    """Return the metric's scores of `items`, as by `score_and_note`; NaN with the fault as its note for each image that
    has one in `faults`, which has a text for every item, empty for a sound image."""
    sound = [item for item, fault in zip(items, faults, strict=True) if not fault]
    found = iter(score_and_note(metric, sound) if sound else ())
    return [Score(math.nan, fault) if fault else next(found) for fault in faults]


def score_and_note(metric: Metric, items: Sequence[ScoreItem]) -> list[Score]:
    """Return the metric's scores of `items`, with a note for each image whose pixels are all alike."""
    return [
        replace(score, note="; ".join(filter(None, [score.note, NOTE]))) if _one_colour(item.image) else score
        for item, score in zip(items, metric.score(items), strict=True)
    ]


def _one_colour(path: Path) -> bool:
    """Whether all pixels of an image are alike. Raises ImageError for one that can't be read."""
    return _look(path, content_digest(path))[0]


def recorded_sample(path: Path) -> str:
    """The sample that an image file says it shows; empty if it does not say. Raises ImageError for one that can't be
    read."""
    return _look(path, content_digest(path))[1]


@lru_cache(maxsize=1 << 16)
def _look(path: Path, _digest: str) -> tuple[bool, str]:
    """Whether it is of one colour, and the sample; looked at once, for all metrics."""
    decoded = decode_image(path)
    return all(least == most for least, most in decoded.image.getextrema()), decoded.sample  # type: ignore[misc]
