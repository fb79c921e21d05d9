"""The contract of a metric: a score for every sample, from images, references and texts."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from knowcusbench.benchmark.types import Concept, Task
from knowcusbench.errors import MetricError


@dataclass(frozen=True)
class ScoreItem:
    """One image to be scored.

    Attributes:
        sample_id: the sample it shows.
        image: its file.
        references: the concept's reference images.
        text: what a text metric compares it with: the prompt with the class noun in the place of the
            concept ("a dog on the beach"), since no text encoder of a metric knows the knowledge.
        class_noun: the concept's class noun, to find the subject in the image.
        concept: the concept's name.
        prompt: the template with `{}` where the concept is named; `{}` alone in the reconstruction task.
    """

    sample_id: str
    image: Path
    references: tuple[Path, ...]
    text: str
    class_noun: str
    concept: str = ""
    prompt: str = "{}"


@dataclass(frozen=True)
class Score:
    """The score of one image.

    Attributes:
        value: finite; higher is better.
        note: what had to be done otherwise than the protocol says ("text truncated to 77 tokens"), or empty.
    """

    value: float
    note: str = ""


class Metric(ABC):
    """A score per sample. Higher is better.

    A metric is a frozen keyword-only dataclass named by `_target_` in `configs/metrics/<name>.yaml`: inert
    data that can be hashed and stored. Weights are loaded on first use.

    Attributes:
        name: the column's key ("clip_i"), as in `configs/metrics/<name>.yaml`.
        title: the column's heading ("CLIP-I").
        tasks: the tasks it is defined for.
        uses_references: whether it compares with reference images, so that references scored against each
            other (leave one out) give its real-image ceiling.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    tasks: ClassVar[frozenset[Task]] = frozenset(Task)
    uses_references: ClassVar[bool] = False

    @abstractmethod
    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """Scores in the order of `items`. A score does not depend on the other items.

        Raises ImageError for an image that can't be read, WeightsError for an encoder that can't be loaded,
        and MetricError, naming the sample, for a score that is not finite.
        """

    def check(self, concepts: Sequence[Concept]) -> None:  # noqa: B027, most metrics score anything
        """Called before anything is made: raise ConfigError if samples of these concepts can't be scored."""

    def weights(self) -> Mapping[str, str]:
        """Which weights it computes with, for the record: for every source (hub id or path) the hub commit or
        the digest of the files. Raises WeightsError for a source that can't be had."""
        return {}


def finite_score(metric: Metric, item: ScoreItem, value: float, note: str = "") -> Score:
    """A score, or MetricError naming the sample if `value` is not finite."""
    if not math.isfinite(value):
        raise MetricError(
            f"{metric.title} of sample {item.sample_id} ({item.image}) is {value}; "
            "check the encoder's weights and dtype"
        )
    return Score(value, note)


def require_references(metric: Metric, items: Sequence[ScoreItem]) -> None:
    """Raise MetricError naming the first sample without reference images."""
    for item in items:
        if not item.references:
            raise MetricError(f"{metric.title} of sample {item.sample_id}: there are no reference images")
