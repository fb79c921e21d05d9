"""Images of one colour, the output of a broken model. Their scores count, with a note."""

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
    """Return the metric's scores of `items`, as by `score_and_note`; an image with a fault gets NaN.

    `faults` has a text for every item, empty for a sound image; the text becomes the note of the NaN score.
    """
    sound = [item for item, fault in zip(items, faults, strict=True) if not fault]
    found = iter(score_and_note(metric, sound) if sound else ())
    return [Score(math.nan, fault) if fault else next(found) for fault in faults]


def score_and_note(metric: Metric, items: Sequence[ScoreItem]) -> list[Score]:
    """Return the metric's scores of `items`, with a note for each image whose pixels are all equal."""
    return [
        replace(score, note="; ".join(filter(None, [score.note, NOTE]))) if _one_colour(item.image) else score
        for item, score in zip(items, metric.score(items), strict=True)
    ]


def _one_colour(path: Path) -> bool:
    """Return whether all pixels of an image are equal. Raises ImageError for one that can't be read."""
    return _inspect(path, content_digest(path))[0]


def recorded_sample(path: Path) -> str:
    """Return the sample id recorded in an image file; empty if there is none. Raises ImageError for an unreadable
    file."""
    return _inspect(path, content_digest(path))[1]


@lru_cache(maxsize=1 << 16)
def _inspect(path: Path, _digest: str) -> tuple[bool, str]:
    """Return whether an image has one colour, and its recorded sample; decoded once for all metrics."""
    decoded = decode_image(path)
    return all(least == most for least, most in decoded.image.getextrema()), decoded.sample  # type: ignore[misc]
