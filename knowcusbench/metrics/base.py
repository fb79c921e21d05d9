"""The contract of a metric: a score for every sample, from images, references and texts."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from knowcusbench.benchmark.types import Concept, Task
from knowcusbench.encoders.segmenters.mask_store import MaskStore
from knowcusbench.errors import MetricError
from knowcusbench.metrics.bounds import UNBOUNDED, Bounds
from knowcusbench.metrics.protocol import PLACEHOLDER, ReferenceSplit, TextForm, split_of, without_rare_tokens


@dataclass(frozen=True)
class ScoreItem:
    """One image to be scored.

    Attributes:
        sample_id: the sample it shows.
        image: its file.
        references: the concept's reference images that methods were shown.
        prompt: the template with `{}` where the concept is named (`{}` alone in the reconstruction task), or a text
            without `{}` that is compared as it is.
        class_noun: the concept's class noun, to find the subject in the image.
        concept: the concept's name.
        phrase: the knowledge phrase; empty if there is none.
        subject: what stood in the place of `{}` when the image was drawn; empty if that is not known.
        held_out: the concept's reference images that were kept from methods.
        gallery: the reference images of all concepts by name, for metrics that tell concepts apart.
        reference_noun: what to find in the references where it is not the class noun; empty otherwise.
    """

    sample_id: str
    image: Path
    references: tuple[Path, ...]
    prompt: str
    class_noun: str
    concept: str = ""
    phrase: str = ""
    subject: str = ""
    held_out: tuple[Path, ...] = ()
    gallery: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    reference_noun: str = ""

    def compared(self, metric: "Metric", split: ReferenceSplit) -> tuple[Path, ...]:
        """The references of a split. Raises MetricError, naming the sample, if there are none."""
        chosen = split_of(self.references, self.held_out, split)
        if not chosen:
            raise MetricError(
                f"{metric.title} of sample {self.sample_id}: there are no reference images (split {split})"
            )
        return chosen


@dataclass(frozen=True)
class Score:
    """The score of one image.

    Attributes:
        value: finite.
        note: what had to be done otherwise than the protocol says ("text truncated to 77 tokens"), or empty.
        details: what else is known of how it came about, as numbers by name ("coverage").
    """

    value: float
    note: str = ""
    details: Mapping[str, float] = field(default_factory=dict)


class Shuffle(StrEnum):
    """What is exchanged to see how a metric scores what does not belong together: its floor."""

    CONCEPTS = "concepts"
    PROMPTS = "prompts"


class Metric(ABC):
    """A score per sample.

    A metric is a frozen keyword-only dataclass named by `_target_` in `configs/metrics/<name>.yaml`: inert
    data that can be hashed and stored. Weights are loaded on first use.

    Attributes:
        name: the column's key ("clip_i"), as in `configs/metrics/<name>.yaml`.
        title: the column's heading ("CLIP-I").
        tasks: the tasks it is defined for.
        higher_is_better: the direction of best.
        uses_references: whether it compares with reference images, so that references scored against each
            other (leave one out) give its real-image ceiling.
        least_references: how many it needs.
        shuffle: what is exchanged for its floor.
        version: raised by the author when the same settings and weights give other scores: all are then computed again.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    tasks: ClassVar[frozenset[Task]] = frozenset(Task)
    higher_is_better: ClassVar[bool] = True
    uses_references: ClassVar[bool] = False
    least_references: ClassVar[int] = 1
    shuffle: ClassVar[Shuffle] = Shuffle.CONCEPTS
    version: ClassVar[int] = 1

    @property
    def bounds(self) -> Bounds:
        """The lowest and highest score there can be, which no interval goes beyond; by default there are none."""
        return UNBOUNDED

    @property
    def decimals(self) -> int:
        """Digits after the point in tables, by the scale of `bounds`; three without."""
        return self.bounds.decimals

    @abstractmethod
    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """Scores in the order of `items`. A score does not depend on the other items.

        Raises ImageError for an image that can't be read, WeightsError for an encoder that can't be loaded,
        and MetricError, naming the sample, for a score that is not finite.
        """

    def check(self, concepts: Sequence[Concept]) -> None:  # noqa: B027, most metrics score anything
        """Called before anything is made: raise ConfigError if samples of these concepts can't be scored."""

    def masks(self) -> MaskStore | None:
        """Where the masks are that it computes scores with; None if it has none, or keeps none."""
        return None

    def weights(self) -> Mapping[str, str]:
        """Which weights it computes with, for the record: for every source (hub id or path) the hub commit or
        the digest of the files. Raises WeightsError for a source that can't be had."""
        return {}


def finite_score(
    metric: Metric, item: ScoreItem, value: float, note: str = "", details: Mapping[str, float] | None = None
) -> Score:
    """A score, or MetricError naming the sample if `value` or one of the details is not finite."""
    for name, number in {metric.title: value, **(details or {})}.items():
        if not math.isfinite(number):
            raise MetricError(
                f"{name} of sample {item.sample_id} ({item.image}) is {number}; check the encoder's weights and dtype"
            )
    return Score(value, note, details or {})


def text_of(item: ScoreItem, form: TextForm) -> str:
    """The text that an image is compared with. A prompt without `{}` is that text itself, in the form `stripped` less
    its rare tokens.

    Raises MetricError, naming the sample, where nothing is known to put there, or nothing remains.
    """
    if PLACEHOLDER not in item.prompt:
        text = without_rare_tokens(item.prompt) if form is TextForm.stripped else item.prompt
    elif form is TextForm.background:
        words = re.sub(r"(\b(of|an?|the)\s+)*" + re.escape(PLACEHOLDER), " ", item.prompt, flags=re.IGNORECASE)
        text = re.sub(r"\s+([,.;:])", r"\1", " ".join(words.split())).strip(" ,;:")
    else:
        subjects = {
            TextForm.class_noun: item.class_noun,
            TextForm.phrase: item.phrase,
            TextForm.stripped: without_rare_tokens(item.subject),
        }
        text = item.prompt.replace(PLACEHOLDER, subjects[form], 1) if subjects[form] else ""
    if not text.strip(" ."):
        raise MetricError(
            f"sample {item.sample_id}: the prompt {item.prompt!r} has no text in the form {form}; choose another "
            "protocol.text_form="
        )
    return text
