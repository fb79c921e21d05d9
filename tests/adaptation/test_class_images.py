import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.class_images import RECORD, class_seeds
from knowcusbench.adapters.cost import Meter


@dataclass
class Painter:
    """Draws noise determined by prompt and seed, and records its calls."""

    digest: str = "weights"
    image_size: tuple[int, int] = (8, 8)
    sampling: dict[str, Any] = field(default_factory=lambda: {"steps": 4})
    settings: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, list[int]]] = field(default_factory=list)

    def encode(self, prompt: str) -> str:
        return prompt

    def sample(self, prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
        self.asked.append((prompt, list(seeds)))
        return [painted(prompt, seed) for seed in seeds]


def painted(prompt: str, seed: int) -> Image.Image:
    noise = np.random.default_rng([seed, *prompt.encode()])
    return Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8))


def same(images: Sequence[Image.Image], others: Sequence[Image.Image]) -> bool:
    return [image.tobytes() for image in images] == [other.tobytes() for other in others]


def test_what_was_drawn_is_not_drawn_again(cache: AdapterCache) -> None:
    painter = Painter()
    expected = [painted("a boat", seed) for seed in class_seeds("a boat", 3)]
    assert same(cache.class_images.drawn("a boat", 3, painter, Meter()), expected)
    assert same(AdapterCache(cache.directory).class_images.drawn("a boat", 3, painter, Meter()), expected)
    assert painter.asked == [("a boat", class_seeds("a boat", 3))]


def test_later_ones_are_charged_what_the_first_one_spent(cache: AdapterCache) -> None:
    first, second = Meter(), Meter()
    cache.class_images.drawn("a boat", 2, Painter(), first)
    (record,) = cache.class_images.directory.glob(f"*/{RECORD}")
    cache.class_images.drawn("a boat", 2, Painter(), second)
    assert first.charged == 0
    assert second.charged == json.loads(record.read_text())["seconds"] > 0


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "others"},
        {"image_size": (16, 16)},
        {"sampling": {"steps": 5}},
        {"settings": {"attention": "flash"}},
    ],
)
def test_other_backbones_and_settings_draw_anew(cache: AdapterCache, change: dict[str, Any]) -> None:
    painter = Painter()
    cache.class_images.drawn("a boat", 2, painter, Meter())
    cache.class_images.drawn("a boat", 2, replace(painter, **change), Meter())
    cache.class_images.drawn("a boat", 3, painter, Meter())
    cache.class_images.drawn("a toy", 2, painter, Meter())
    assert [(prompt, len(seeds)) for prompt, seeds in painter.asked] == [
        ("a boat", 2),
        ("a boat", 2),
        ("a boat", 3),
        ("a toy", 2),
    ]


def test_a_failure_leaves_nothing(cache: AdapterCache, monkeypatch: pytest.MonkeyPatch) -> None:
    images = cache.class_images
    with monkeypatch.context() as broken:
        broken.setattr(Image.Image, "save", full)
        with pytest.raises(OSError, match="full"):
            images.drawn("a boat", 2, Painter(), Meter())
    assert list(images.directory.iterdir()) == []
    assert len(images.drawn("a boat", 2, Painter(), Meter())) == 2


def full(*_: Any) -> None:
    raise OSError("the disk is full")


def test_seeds_are_of_the_prompt_alone() -> None:
    assert len(set(class_seeds("a boat", 50))) == 50
    assert class_seeds("a boat", 50)[:3] == class_seeds("a boat", 3)
    assert not set(class_seeds("a boat", 50)) & set(class_seeds("a toy", 50))
