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
        sample_id: id of the sample.
        image: path of the image file.
        references: the concept's training references, which methods see.
        prompt: the template with `{}` where the concept is named (`{}` alone in the reconstruction task), or a text
            without `{}`, which is compared unchanged.
        class_noun: the concept's class noun, to find the subject in the image.
        concept: the concept's name.
        phrase: the knowledge phrase; empty if there is none.
        subject: the text that replaced `{}` when the image was drawn; empty if unknown.
        held_out: the concept's held-out references, which methods never see.
        gallery: the reference images of all concepts by name, for metrics that tell concepts apart.
        reference_noun: what to segment in the references, if not the class noun; else empty.
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
        """Return the references of a split. Raises MetricError, naming the sample, if there are none."""
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
        value: the score; finite.
        note: deviation from the protocol ("text truncated to 77 tokens"), or empty.
        details: further numbers behind the score, by name ("coverage").
    """

    value: float
    note: str = ""
    details: Mapping[str, float] = field(default_factory=dict)


class Shuffle(StrEnum):
    """The exchange between samples for a metric's floor, the score of mismatched pairs."""

    CONCEPTS = "concepts"
    PROMPTS = "prompts"


class Metric(ABC):
    """The contract of metrics: one score per sample.

    A metric is a frozen keyword-only dataclass named by `_target_` in `configs/metrics/<name>.yaml`: inert data that
    can be hashed and stored. Weights are loaded on first use.

    Attributes:
        name: the column's key ("clip_i"), as in `configs/metrics/<name>.yaml`.
        title: the column's heading ("CLIP-I").
        tasks: the tasks it is defined for.
        higher_is_better: whether a higher score is better.
        uses_references: whether it compares with reference images. Its real-image ceiling then comes from scoring the
            references against each other (leave one out).
        least_references: the least number of references it needs.
        shuffle: what is exchanged between samples for its floor.
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
        """Lowest and highest possible score, which clip intervals; infinite by default."""
        return UNBOUNDED

    @property
    def decimals(self) -> int:
        """Digits after the point in tables, by the scale of `bounds`; three if these are infinite."""
        return self.bounds.decimals

    @abstractmethod
    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """Return scores in the order of `items`; a score must not depend on the other items.

        Raises ImageError for an image that can't be read, WeightsError for an encoder that can't be loaded, and
        MetricError, naming the sample, for a score that is not finite.
        """

    def check(self, concepts: Sequence[Concept]) -> None:  # noqa: B027, most metrics score anything
        """Raise ConfigError if samples of these concepts can't be scored; called before anything is made."""

    def masks(self) -> MaskStore | None:
        """Return the store of the masks used for the scores; None if the metric has none or keeps none."""
        return None

    def weights(self) -> Mapping[str, str]:
        """Return the version of all weights used, for the record.

        Maps every source (hub id or path) to the hub commit or the digest of the files. Raises WeightsError for a
        source that is unavailable.
        """
        return {}


def finite_score(
    metric: Metric, item: ScoreItem, value: float, note: str = "", details: Mapping[str, float] | None = None
) -> Score:
    """Return a score; raises MetricError, naming the sample, if `value` or one of the details is not finite."""
    for name, number in {metric.title: value, **(details or {})}.items():
        if not math.isfinite(number):
            raise MetricError(
                f"{name} of sample {item.sample_id} ({item.image}) is {number}; check the encoder's weights and dtype"
            )
    return Score(value, note, details or {})


def text_of(item: ScoreItem, form: TextForm) -> str:
    """Return the text that an image is compared with.

    A prompt without `{}` is itself that text; in the form `stripped` it loses its rare tokens. Raises MetricError,
    naming the sample, if the words for this form are unknown, or no text remains.
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
