"""Random draws that are the same in every Python version: of a generator's methods only `random()` guarantees that."""

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

AnyItem = TypeVar("AnyItem")


def choose(rng: random.Random, items: Sequence[AnyItem]) -> AnyItem:
    """Return one of the items, all equally likely."""
    return items[int(rng.random() * len(items))]


def between(rng: random.Random, lowest: int, highest: int) -> int:
    """Return a whole number from `lowest` to `highest`, both included."""
    return lowest + int(rng.random() * (highest - lowest + 1))


def shuffled(rng: random.Random, items: Iterable[AnyItem]) -> list[AnyItem]:
    """Return the items in random order."""
    return sorted(items, key=lambda _: rng.random())
