"""Random draws that are the same in every version of Python: of a generator's methods only `random()` promises it."""

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

AnyItem = TypeVar("AnyItem")


def choose(rng: random.Random, items: Sequence[AnyItem]) -> AnyItem:
    """One of the items, all equally likely."""
    return items[int(rng.random() * len(items))]


def between(rng: random.Random, lowest: int, highest: int) -> int:
    """A whole number, both ends included."""
    return lowest + int(rng.random() * (highest - lowest + 1))


def shuffled(rng: random.Random, items: Iterable[AnyItem]) -> list[AnyItem]:
    """The items in random order."""
    return sorted(items, key=lambda _: rng.random())
