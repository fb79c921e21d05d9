"""The conformance suite: every shipped metric passes it, and it finds each broken promise."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.encoders.segmenters.sam import SamSpec
from knowcusbench.errors import MetricError
from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.metrics.bounds import SHARE, Bounds
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.clip_i_seg import ClipISeg
from knowcusbench.metrics.clip_t import ClipT
from knowcusbench.metrics.copies import Copies
from knowcusbench.metrics.pickscore import PickScore
from knowcusbench.metrics.retrieval import ConceptRetrieval
from knowcusbench.storage.images import read_image
from knowcusbench.testing import check_metric


@pytest.mark.parametrize("name", ["clip_i", "clip_i_seg", "clip_t", "pickscore", "retrieval", "copies"])
def test_our_metrics_keep_the_contract(
    name: str,
    clip: ClipSpec,
    preference: TransformersClipSpec,
    segmenter: SamSpec,
    dogs: list[Path],
    ducks: list[Path],
    tmp_path: Path,
) -> None:
    metrics: dict[str, Metric] = {
        "clip_i": ClipI(encoder=clip),
        "clip_i_seg": ClipISeg(encoder=clip, segmenter=segmenter),
        "clip_t": ClipT(encoder=clip),
        "pickscore": PickScore(encoder=preference),
        "retrieval": ConceptRetrieval(encoder=clip),
        "copies": Copies(encoder=clip),
    }
    gallery = {"dog": tuple(dogs[:3]), "duck": tuple(ducks[:2])}
    images = (dogs[0], dogs[4], ducks[2])
    items = [
        ScoreItem(f"s{n}", image, gallery["dog"], f"a {{}} in place {n}", "dog", concept="dog", gallery=gallery)
        for n, image in enumerate(images)
    ]
    check_metric(metrics[name], items, tmp_path)


@dataclass(frozen=True, kw_only=True)
class Brightness(Metric):
    """The mean of an image's pixels, or another value to break a promise."""

    name: ClassVar[str] = "brightness"
    title: ClassVar[str] = "Brightness"

    broken: str = ""

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        values = [self.value(item) for item in items]
        match self.broken:
            case "company":
                values = [value - values[0] for value in values]
            case "order":
                values = sorted(values)
            case "count":
                values = values[1:]
            case "not a float":
                return [Score(np.float32(value)) for value in values]
            case "nan":
                return [Score(float("nan")) for _ in values]
            case "note":
                return [Score(value, None) for value in values]  # type: ignore[arg-type]
            case "global":
                torch.rand(1)
            case "random":
                state = random.getstate()
                values = [value + random.random() for value in values]
                random.setstate(state)
        return [Score(value) for value in values]

    @property
    def bounds(self) -> Bounds:
        return SHARE if self.broken == "bounds" else Bounds(-255, 255)

    def value(self, item: ScoreItem) -> float:
        if self.broken == "swallowed" and not item.image.exists():
            return 0.0
        if self.broken == "another error" and not item.image.exists():
            raise KeyError(item.image)
        return float(np.asarray(read_image(item.image), dtype=np.float64).mean())


@pytest.fixture
def three(dogs: list[Path]) -> list[ScoreItem]:
    return [ScoreItem(f"s{n}", file, tuple(dogs[3:]), "a dog", "dog") for n, file in enumerate(dogs[:3])]


def test_a_metric_of_ones_own_passes(three: list[ScoreItem], tmp_path: Path) -> None:
    check_metric(Brightness(), three, tmp_path)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("company", "depends on the other items|depend on the order"),
        ("order", "depend on the order"),
        ("count", "a Score for each of 3 items"),
        ("not a float", "a finite float"),
        ("nan", "a finite float"),
        ("note", "a note must be text"),
        ("bounds", "within bounds, 0 to 1"),
        ("global", "moved a global random generator"),
        ("random", "change when they are computed again|depend"),
        ("swallowed", "must be refused with an ImageError"),
        ("another error", "must be an ImageError, not KeyError"),
    ],
)
def test_a_broken_promise_is_found(broken: str, sentence: str, three: list[ScoreItem], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_metric(Brightness(broken=broken), three, tmp_path)


@dataclass(frozen=True, kw_only=True)
class Unhashable(Brightness):
    values: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Nameless(Brightness):
    name: ClassVar[str] = "my metric"


@dataclass(frozen=True, kw_only=True)
class Careless(Brightness):
    uses_references: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Mute(Brightness):
    uses_references: ClassVar[bool] = True

    def value(self, item: ScoreItem) -> float:
        if not item.references:
            raise MetricError("no references")
        return super().value(item)


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (Unhashable(), "can be hashed"),
        (Nameless(), "name must be an identifier"),
        (Careless(), "without reference images must be refused"),
        (Mute(), "must name the sample"),
    ],
)
def test_a_metric_that_is_not_one_is_found(metric: Any, sentence: str, three: list[ScoreItem], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_metric(metric, three, tmp_path)


def test_items_that_can_show_nothing_are_refused(three: list[ScoreItem], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least three"):
        check_metric(Brightness(), three[:2], tmp_path)
    with pytest.raises(ValueError, match="different scores"):
        check_metric(Brightness(), [replace(three[0], sample_id=str(n)) for n in range(3)], tmp_path)
