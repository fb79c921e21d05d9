"""The contract of a metric: a score for every sample, from images, references and texts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from knowcusbench.benchmark.types import Task


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
    """

    sample_id: str
    image: Path
    references: tuple[Path, ...]
    text: str
    class_noun: str


class Metric(ABC):
    """A score per sample. Higher is better.

    Attributes:
        name: the column's key ("clip_i"), as in `configs/metrics/<name>.yaml`.
        title: the column's heading ("CLIP-I").
        tasks: the tasks it is defined for.
        uses_references: whether it compares with reference images, so that references scored against each other
            (leave one out) give its real-image ceiling.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    tasks: ClassVar[frozenset[Task]] = frozenset(Task)
    uses_references: ClassVar[bool] = False

    @abstractmethod
    def score(self, items: Sequence[ScoreItem]) -> list[float]:
        """Scores in the order of `items`. A score does not depend on the other items.

        Raises ImageError for an image that can't be read and MetricError, naming the sample, for a score that is
        not finite.
        """
