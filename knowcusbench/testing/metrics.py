"""Checks of the contract of metrics.

A failed check is an AssertionError with a sentence that names the broken promise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from knowcusbench.benchmark.types import Task
from knowcusbench.errors import ImageError, UserError
from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.testing.common import global_random_state, other_global_random_state, require

TOLERANCE = 1e-5
"""Tolerance between two scores of one image: another batch may change the last bits."""


def check_metric(metric: Metric, items: Sequence[ScoreItem], directory: Path) -> None:
    """Check that `metric` keeps the promises of `Metric`.

    Args:
        metric: the metric, with settings that make it fast; it is run about eight times.
        items: at least three items that it can score, with different scores.
        directory: an empty directory.

    Raises AssertionError for the first broken promise, and ValueError for items that can't be used for these checks.
    """
    if len(items) < 3:
        raise ValueError("check_metric needs at least three items")
    check_identity(metric)
    scores = check_scores(metric, items)
    check_batch_independence(metric, items, scores)
    check_repetition(metric, items, scores)
    check_bad_input(metric, items, directory)


def check_identity(metric: Metric) -> None:
    """Check that the metric names itself, and can be hashed and recorded."""
    require(bool(metric.name) and metric.name.isidentifier(), f"name must be an identifier, it is {metric.name!r}")
    require(bool(metric.title.strip()), "title must be a heading for people")
    require(bool(metric.tasks) and metric.tasks <= frozenset(Task), f"tasks must be some of {list(Task)}")
    try:
        hash(metric)
    except TypeError as error:
        raise AssertionError(f"a metric must be frozen data that can be hashed: {error}") from error
    require(replace(metric) == metric, "a metric must be a dataclass that equals its copy")  # type: ignore[type-var]
    weights = metric.weights()
    require(
        isinstance(weights, Mapping) and all(isinstance(part, str) for pair in weights.items() for part in pair),
        f"weights() must give a version (text) by source (text), it gives {weights!r}",
    )


def check_scores(metric: Metric, items: Sequence[ScoreItem]) -> list[Score]:
    """Check that each item has a finite score from its images and nothing global. Returns the scores."""
    before = global_random_state()
    scores = metric.score(items)
    require(
        global_random_state() == before,
        "score() moved a global random generator (random, numpy.random or torch); use one of your own",
    )
    require(
        isinstance(scores, list) and len(scores) == len(items) and all(isinstance(one, Score) for one in scores),
        f"score() must return a list with a Score for each of {len(items)} items, it returned {scores!r}",
    )
    for item, one in zip(items, scores, strict=True):
        require(
            type(one.value) is float and math.isfinite(one.value),
            f"a score must be a finite float; that of {item.sample_id} is {one.value!r}",
        )
        require(isinstance(one.note, str), f"a note must be text; that of {item.sample_id} is {one.note!r}")
        require(
            all(type(key) is str and type(value) is float for key, value in one.details.items()),
            f"details must be floats by name; those of {item.sample_id} are {one.details!r}",
        )
    low, high = metric.bounds
    room = TOLERANCE * max(1.0, *(abs(one.value) for one in scores))
    require(
        all(low - room <= one.value <= high + room for one in scores),
        f"scores must be within bounds, {low} to {high}; they are {[one.value for one in scores]}",
    )
    if len({one.value for one in scores}) < 2:
        raise ValueError("check_metric needs items with different scores")
    require(metric.score([]) == [], "no items must give no scores")
    return scores


def check_batch_independence(metric: Metric, items: Sequence[ScoreItem], scores: Sequence[Score]) -> None:
    """Check that a score does not depend on the other items, nor on their order."""
    _same(metric.score(items[::-1])[::-1], scores, "scores depend on the order of the items")
    alone = [score for item in items for score in metric.score([item])]
    _same(alone, scores, "a score depends on the other items")
    twice = metric.score([*items, *items])
    _same(twice[: len(items)], scores, "a score depends on the other items")


def check_repetition(metric: Metric, items: Sequence[ScoreItem], scores: Sequence[Score]) -> None:
    """Check that the same items get the same scores, whatever the global generators' state."""
    with other_global_random_state():
        again = metric.score(items)
    _same(again, scores, "scores change when they are computed again")


def check_bad_input(metric: Metric, items: Sequence[ScoreItem], directory: Path) -> None:
    """Check that an item that can't be scored raises an error that names it."""
    broken = directory / "broken.png"
    broken.write_bytes(b"not an image")
    for path in (directory / "gone.png", broken):
        try:
            metric.score([replace(items[0], image=path)])
        except ImageError as error:
            require(path.name in str(error), f"an ImageError must name the file {path}, it says: {error}")
        except Exception as error:
            raise AssertionError(
                f"an image that can't be read must be an ImageError, not {type(error).__name__}: {error}"
            ) from error
        else:
            raise AssertionError(f"an image that can't be read ({path.name}) must be refused with an ImageError")
    if metric.uses_references:
        try:
            metric.score([replace(items[0], references=(), held_out=())])
        except UserError as error:
            named = items[0].sample_id in str(error)
            require(named, f"without references the error must name the sample, it says: {error}")
        else:
            raise AssertionError("a sample without reference images must be refused with a MetricError")


def _same(found: Sequence[Score], wanted: Sequence[Score], broken: str) -> None:
    for one, other in zip(found, wanted, strict=True):
        difference = abs(one.value - other.value)
        require(
            difference <= TOLERANCE * max(1.0, abs(other.value)) and one.note == other.note,
            f"{broken}: {one} and {other}",
        )
