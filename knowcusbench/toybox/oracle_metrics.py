"""Metrics of the embedded world: the oracle's reading of a picture, compared with the requested content."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from knowcusbench.benchmark.types import RECONSTRUCTION_PROMPT, Concept, Task
from knowcusbench.errors import ConfigError
from knowcusbench.metrics.base import Metric, Score, ScoreItem, Shuffle, finite_score
from knowcusbench.metrics.bounds import SHARE, Bounds
from knowcusbench.toybox.models.oracle import NONE, OracleSpec, Sight
from knowcusbench.toybox.world.concepts import DEVELOPMENT_CONCEPTS, NOVEL_CONCEPTS
from knowcusbench.toybox.world.language import PROMPTS, Wish
from knowcusbench.toybox.world.scene import Thing

THINGS: Mapping[str, Thing] = {concept.name: concept.thing for concept in (*NOVEL_CONCEPTS, *DEVELOPMENT_CONCEPTS)}
"""The benchmark's things, by concept name."""


def shown_share(sight: Sight, thing: Thing, wish: Wish | None = None) -> float:
    """Return the share, from 0 to 1, of a thing's five attributes (kind, colour, pattern, trim, accent) in a picture.

    A colour or pattern requested by the prompt replaces the thing's own.
    """
    if wish:
        thing = replace(thing, colour=wish.colour or thing.colour, pattern=wish.pattern or thing.pattern)
    wanted = {
        "kind": thing.kind,
        "colour": thing.colour,
        "pattern": thing.pattern,
        "trim": thing.trim or NONE,
        "accent": thing.accent or NONE,
    }
    return sum(sight[name] == word for name, word in wanted.items()) / len(wanted)


def is_granted(sight: Sight, wish: Wish) -> bool:
    """Return whether a picture shows everything that a prompt requests."""
    wanted = {
        "background": wish.background,
        "style": wish.style,
        "colour": wish.colour,
        "pattern": wish.pattern,
        "size": wish.size,
        "second_kind": wish.second and wish.second.kind,
        "second_colour": wish.second and wish.second.colour,
    }
    return all(sight[name] == word for name, word in wanted.items() if word is not None)


@dataclass(frozen=True, kw_only=True)
class OracleMetric(Metric):
    """A comparison of the oracle's reading with the requested content.

    Attributes:
        oracle: the classifier that reads the pictures.
    """

    oracle: OracleSpec

    @property
    def bounds(self) -> Bounds:
        return SHARE

    @abstractmethod
    def compare(self, sight: Sight, thing: Thing, wish: Wish | None) -> float:
        """Return the score of a picture's attributes.

        Args:
            thing: the concept.
            wish: the prompt's request; None if the prompt is the concept alone.
        """

    def check(self, concepts: Sequence[Concept]) -> None:
        for concept in concepts:
            thing = THINGS.get(concept.name)
            if thing is None or thing.kind != concept.class_noun:
                raise self._stranger(f"the concept {concept.name!r} ({concept.class_noun})")
            for prompt in concept.prompts:
                if prompt.template not in PROMPTS:
                    raise self._stranger(f"the prompt {prompt.template!r} of {concept.name}")

    def _stranger(self, what: str) -> ConfigError:
        return ConfigError(
            f"metrics.{self.name}: {what} is not of the embedded world, so its truth isn't known; choose "
            "benchmark=directory benchmark.path=... (which leaves this metric out), or other metrics=[...]"
        )

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        sights = self.oracle.load().look_at_files([item.image for item in items])
        scores = []
        for item, sight in zip(items, sights, strict=True):
            wish = None if item.prompt == RECONSTRUCTION_PROMPT.template else PROMPTS[item.prompt]
            scores.append(finite_score(self, item, self.compare(sight, THINGS[item.concept], wish)))
        return scores

    def weights(self) -> Mapping[str, str]:
        return self.oracle.weights()


@dataclass(frozen=True, kw_only=True)
class OracleConcept(OracleMetric):
    """Share of the concept in the picture, by `shown_share`."""

    name: ClassVar[str] = "oracle_concept"
    title: ClassVar[str] = "Concept"

    def compare(self, sight: Sight, thing: Thing, wish: Wish | None) -> float:
        return shown_share(sight, thing, wish)


@dataclass(frozen=True, kw_only=True)
class OracleExact(OracleMetric):
    """Presence of the whole concept: 1 if `shown_share` is 1, else 0."""

    name: ClassVar[str] = "oracle_exact"
    title: ClassVar[str] = "Exact"

    def compare(self, sight: Sight, thing: Thing, wish: Wish | None) -> float:
        return float(shown_share(sight, thing, wish) == 1)


@dataclass(frozen=True, kw_only=True)
class OraclePrompt(OracleMetric):
    """Fulfilment of the prompt: 1 if `is_granted`, else 0."""

    name: ClassVar[str] = "oracle_prompt"
    title: ClassVar[str] = "Prompt"
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.GENERATION})
    shuffle: ClassVar[Shuffle] = Shuffle.PROMPTS

    def compare(self, sight: Sight, thing: Thing, wish: Wish | None) -> float:
        return float(wish is None or is_granted(sight, wish))
