"""The language of the embedded world: captions, prompts, questions and answers."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from knowcusbench.benchmark.types import KnowledgeItem, PromptAspect
from knowcusbench.toybox.world.scene import Scene, Thing
from knowcusbench.toybox.world.vocabulary import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    PATTERNS,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
)
from knowcusbench.toybox.world.world import KNOWN, NAMED, size_word


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The request of a generation prompt; None for an unchanged attribute.

    Attributes:
        aspect: the aspect of the prompt.
        background, style, colour, pattern, size: a word of the vocabulary.
        second: the requested second thing.
    """

    aspect: PromptAspect
    background: str | None = None
    style: str | None = None
    second: Thing | None = None
    colour: str | None = None
    pattern: str | None = None
    size: str | None = None


def describe(thing: Thing, size: str = "") -> str:
    """Describe all attributes of a thing: "a red striped toy with a yellow head and blue feet".

    >>> describe(Thing(kind="star", colour="orange", pattern="dotted"), "tiny")
    'a tiny orange dotted star'
    """
    pattern = "" if thing.pattern == "plain" else thing.pattern
    words = with_article(" ".join(filter(None, (size, thing.colour, pattern, thing.kind))))
    if thing.trim is None or thing.accent is None:
        return words
    trim, accent = CLASSES[thing.kind]
    return f"{words} with {_coloured(trim, thing.trim)} and {_coloured(accent, thing.accent)}"


def caption(
    scene: Scene, rng: random.Random, subject: str | None = None, *, change: str = "", place: bool = True
) -> str:
    """Return a sentence about everything in a scene.

    Args:
        subject: a name or knowledge phrase for the main thing; by default it is described.
        change: the colour or pattern that it has instead of its own.
        place: whether to mention the background.
    """
    size = size_word(scene.main.size)
    if subject is None:
        subject = describe(scene.main.thing, size)
    elif size or change:
        subject = f"{with_article(' '.join(filter(None, (size, change))))} version of {subject}"
    if scene.second:
        second = describe(scene.second.thing)
        subject = f"{subject} next to {second}" if rng.random() < 1 / 2 else f"{subject} with {second} beside it"
    where = f" {BACKGROUNDS[scene.background]}" if place else ""
    style = STYLES[scene.style]
    if rng.random() < 1 / 2:
        return f"{style} of {subject}{where}"
    return f"{subject}{where}" if scene.style == "photo" else f"{subject}{where} in the style of {style}"


def name_of(name: str) -> str:
    """Return a named thing in the form of an anchor: its name and its class ("zam house")."""
    return f"{name} {NAMED[name].kind}"


def knowledge_item(owner: str, relation: str, answer: str) -> KnowledgeItem:
    """Return the knowledge that `answer` stands in a relation to an owner."""
    words = RELATIONS[relation]
    return KnowledgeItem(
        phrase=words.phrase.format(owner),
        question=words.question.format(owner),
        answer=answer,
        aspect=words.aspect,
        rephrasings=tuple(rephrasing.format(owner) for rephrasing in words.rephrasings),
    )


def known_items() -> Iterator[KnowledgeItem]:
    """Yield all knowledge of the world before any edit."""
    for (owner, relation), name in KNOWN.items():
        yield knowledge_item(owner, relation, name_of(name))


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _coloured(noun: str, colour: str) -> str:
    """Return a part's noun with its colour: "a {} head" and "orange" give "an orange head"."""
    words = noun.format(colour)
    return with_article(words.removeprefix("a ")) if words.startswith("a ") else words


def _prompts() -> Iterator[tuple[str, Wish]]:
    for background, place in BACKGROUNDS.items():
        wish = Wish(aspect=PromptAspect.BACKGROUND_CHANGE, background=background)
        yield f"a photo of {{}} {place}", wish
        yield f"{{}} {place}", wish
    for shape in SHAPES:
        for colour in COLOURS:
            second = Thing(kind=shape, colour=colour)
            wish = Wish(aspect=PromptAspect.OBJECT_INSERTION, second=second)
            yield f"{{}} next to {describe(second)}", wish
            yield f"a photo of {{}} with {describe(second)} beside it", wish
    for style, words in STYLES.items():
        if style != "photo":
            wish = Wish(aspect=PromptAspect.STYLE_TRANSFER, style=style)
            yield f"{words} of {{}}", wish
            yield f"{{}} in the style of {words}", wish
    for colour in COLOURS:
        yield f"{with_article(colour)} version of {{}}", Wish(aspect=PromptAspect.ATTRIBUTE_MODIFICATION, colour=colour)
    for pattern in PATTERNS:
        yield f"a {pattern} version of {{}}", Wish(aspect=PromptAspect.ATTRIBUTE_MODIFICATION, pattern=pattern)
    for size in filter(None, SIZES):
        yield f"a {size} version of {{}}", Wish(aspect=PromptAspect.ATTRIBUTE_MODIFICATION, size=size)


PROMPTS: Mapping[str, Wish] = dict(_prompts())
"""All generation prompts of the world, by their template."""
