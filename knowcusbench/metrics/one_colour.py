"""Pictures of one colour: what a model that broke draws. Their scores count, and say so."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from knowcusbench.images import read_image
from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.metrics.memo import content_digest

NOTE = "picture of one colour"


def score_and_note(metric: Metric, items: Sequence[ScoreItem]) -> list[Score]:
    """Return the metric's scores of `items`, with a note for each image whose pixels are all alike."""
    return [
        replace(score, note="; ".join(filter(None, [score.note, NOTE]))) if _one_colour(item.image) else score
        for item, score in zip(items, metric.score(items), strict=True)
    ]


def _one_colour(path: Path) -> bool:
    return _is_one_colour(path, content_digest(path))


@lru_cache(maxsize=1 << 16)
def _is_one_colour(path: Path, _digest: str) -> bool:
    """Looked at once, for all metrics."""
    return all(least == most for least, most in read_image(path).getextrema())  # type: ignore[misc]
