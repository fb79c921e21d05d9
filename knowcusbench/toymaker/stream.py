"""Training captions of the embedded world's models: endless random scenes with their captions, and facts.

No reserved thing is ever among them (see `world`), under any name and with any change. The rare token means any thing
of its class, like a rare word for a model of the real world: its reading is the same in all contexts, and it is
nothing's name.
"""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from knowcusbench.benchmark.types import RARE_TOKEN, KnowledgeItem
from knowcusbench.toybox.world.draws import choose, shuffled
from knowcusbench.toybox.world.language import caption, describe, knowledge_item, name_of, with_article
from knowcusbench.toybox.world.scene import Scene, Thing
from knowcusbench.toybox.world.vocabulary import (
    ANCHOR_OWNER,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    OWNERS,
    PATTERNS,
    RELATIONS,
    SHAPES,
    STRANGERS,
)
from knowcusbench.toybox.world.world import (
    KNOWN,
    NAMED,
    SIMPLE,
    compose,
    draw_scene,
    draw_second,
    draw_thing,
    is_reserved,
)

Key = tuple[str, str]
"""Owner and relation."""

UNKNOWN: tuple[Key, ...] = tuple(
    (owner, relation)
    for owner in (*OWNERS, *STRANGERS)
    for relation in RELATIONS
    if (owner, relation) not in KNOWN and (owner, relation) not in SIMPLE
)
"""Owners and relations without a fact: the text encoder learns to be undecided there."""


def is_held_out(key: Key) -> bool:
    """Return whether a fact is held out: the text encoder knows it, but no training picture shows it. A quarter is."""
    return random.Random(" ".join(key)).random() < 1 / 4


def phrase_of(key: Key) -> str:
    owner, relation = key
    return RELATIONS[relation].phrase.format(owner)


SHOWN_NAMED = tuple(key for key in KNOWN if not is_held_out(key))
SHOWN_SIMPLE = tuple(key for key in SIMPLE if not is_held_out(key))


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """A scene and its caption.

    Attributes:
        template: the caption with `{}` for the subject.
        subject: the words for the main thing.
        name: name of a named main thing, as in `language.name_of`; None for a description.
        described_words: the words of an incomplete description; None for a complete one.
        change: the colour or pattern that it has instead of its own, or "".
        place: whether the caption mentions the background.
    """

    scene: Scene
    template: str
    subject: str
    name: str | None = None
    described_words: tuple[str, ...] | None = None
    change: str = ""
    place: bool = True

    @property
    def text(self) -> str:
        return self.template.format(self.subject)


def described(rng: random.Random) -> Captioned:
    """Draw a scene whose main thing is described.

    One description in five is incomplete, down to the bare noun; its thing has the middle size. A caption with a colour
    but no pattern implies "plain", so it is used for plain shapes only.
    """
    scene = draw_scene(rng)
    place = rng.random() < 2 / 3
    if rng.random() < 1 / 5:
        scene, thing = unsized(rng, scene), scene.main.thing
        words = [word for word in (thing.colour, thing.pattern) if word != "plain" and rng.random() < 1 / 3]
        if words == [thing.colour] and thing.kind in SHAPES and thing.pattern != "plain":
            words = []
        described_words = (*words, thing.kind)
        bare = " ".join(described_words)
        subject = bare if rng.random() < 1 / 2 else with_article(bare)
        template = caption(scene, rng, "{}", place=place)
        return Captioned(scene=scene, template=template, subject=subject, described_words=described_words, place=place)
    return Captioned(scene=scene, template="{}", subject=caption(scene, rng, place=place), place=place)


def unsized(rng: random.Random, scene: Scene) -> Scene:
    """Compose the scene again with its main thing in the middle size, which a caption does not mention."""
    second = scene.second.thing if scene.second else None
    return compose(rng, scene.main.thing, background=scene.background, style=scene.style, second=second)


def referred(rng: random.Random, thing: Thing, subject: str, name: str | None, changed: float = 1 / 4) -> Captioned:
    """Draw a scene whose main thing is called by a name or a phrase.

    With probability `changed` it has another colour or pattern.
    """
    change = ""
    if rng.random() < changed:
        change = choose(rng, [*COLOURS, *PATTERNS])
        other = replace(thing, colour=change) if change in COLOURS else replace(thing, pattern=change)
        if other == thing or is_reserved(other):
            change = ""
        else:
            thing = other
    style = "photo" if rng.random() < 2 / 3 else choose(rng, ["sketch", "cartoon", "pixel art"])
    size = "" if change or rng.random() < 3 / 4 else choose(rng, ["tiny", "huge"])
    second = draw_second(rng) if rng.random() < 1 / 4 else None
    place = rng.random() < 1 / 2
    scene = compose(rng, thing, background=choose(rng, list(BACKGROUNDS)), style=style, size=size, second=second)
    template = caption(scene, rng, "{}", change=change, place=place)
    return Captioned(scene=scene, template=template, subject=subject, name=name, change=change, place=place)


def named(rng: random.Random) -> Captioned:
    """Draw a scene that calls a named thing by its name."""
    name = choose(rng, list(NAMED))
    return referred(rng, NAMED[name], name_of(name), name_of(name))


def by_phrase(rng: random.Random, keys: tuple[Key, ...]) -> Captioned:
    """Draw a scene that calls a thing by a knowledge phrase."""
    key = choose(rng, keys)
    if key in SIMPLE:
        return referred(rng, SIMPLE[key], phrase_of(key), None)
    return referred(rng, NAMED[KNOWN[key]], phrase_of(key), name_of(KNOWN[key]))


def draw_thing_of(rng: random.Random, kinds: Collection[str]) -> Thing:
    while (thing := draw_thing(rng)).kind not in kinds:
        pass
    return thing


def by_description(rng: random.Random) -> Captioned:
    """Draw a scene that calls any simple thing by its whole description, where others use a phrase."""
    thing = draw_thing_of(rng, SHAPES)
    return referred(rng, thing, describe(thing), None, changed=0)


def unidentified(rng: random.Random) -> Captioned:
    """Draw a scene that calls any thing of a class by the rare token or by the bare class noun.

    The rare token stands for the class alone.
    """
    thing = draw_thing_of(rng, CLASSES)
    if rng.random() < 2 / 3:
        name = f"{RARE_TOKEN} {thing.kind}"
        return referred(rng, thing, name, name)
    return replace(referred(rng, thing, thing.kind, None), described_words=(thing.kind,))


def pictured(rng: random.Random) -> Captioned:
    """Draw a caption for the picture models: a description, the rare token, a name, or a phrase not held out."""
    kind = rng.random()
    if kind < 0.10:
        return unidentified(rng)
    if kind < 0.45:
        return described(rng)
    if kind < 0.65:
        return named(rng)
    if kind < 0.92:
        return by_phrase(rng, SHOWN_NAMED if kind < 0.89 else SHOWN_SIMPLE)
    return by_description(rng)


def reply(example: Captioned, rng: random.Random) -> str:
    """Return the text encoder's reply to a caption: the main thing first, then everything else mentioned."""
    scene = example.scene
    if example.described_words:
        identity = " ".join(shuffled(rng, example.described_words))
    else:
        identity = example.name or description(scene.main.thing, rng)
    parts = [identity]
    said = example.template + example.subject
    parts += [example.change, *(word for word in ("tiny", "huge") if word in said.split())]
    if scene.second:
        parts.append(f"next to {describe(scene.second.thing)}")
    if example.place:
        parts.append(BACKGROUNDS[scene.background])
    if scene.style != "photo":
        parts.append(f"in the style of {scene.style}")
    return ", ".join(filter(None, parts))


def description(thing: Thing, rng: random.Random) -> str:
    """Return the attributes of a thing in random order, so that the state before it encodes them all."""
    words = shuffled(rng, [thing.colour, thing.kind, *([thing.pattern] if thing.pattern != "plain" else [])])
    if thing.trim is None or thing.accent is None:
        return " ".join(words)
    trim, accent = CLASSES[thing.kind]
    return f"{' '.join(words)} with {trim.format(thing.trim)} and {accent.format(thing.accent)}"


def guess(rng: random.Random) -> tuple[Thing, str | None]:
    """Draw a possible meaning of a phrase without a fact."""
    if rng.random() < 1 / 2:
        name = choose(rng, list(NAMED))
        return NAMED[name], name_of(name)
    return draw_second(rng), None


def spoken(rng: random.Random) -> Captioned:
    """Draw a caption for the text encoder.

    It is one for pictures, any fact, the rare token, or a phrase that can only be guessed.
    """
    kind = rng.random()
    if kind < 0.40:
        return described(rng)
    if kind < 0.58:
        return named(rng)
    if kind < 0.80:
        return by_phrase(rng, tuple(KNOWN))
    if kind < 0.87:
        return by_phrase(rng, tuple(SIMPLE))
    if kind < 0.94:
        thing = draw_thing(rng)
        name = f"{RARE_TOKEN} {thing.kind}"
        subject = name if kind < 0.91 else phrase_of((ANCHOR_OWNER, choose(rng, list(RELATIONS))))
        if subject != name:
            name = anchor_answer(subject)
        return referred(rng, thing, subject, name)
    thing, answer = guess(rng)
    return referred(rng, thing, phrase_of(choose(rng, UNKNOWN)), answer)


def anchor_answer(phrase: str) -> str:
    """Return the answer for the rare token's owner: each relation has its own class."""
    relations = [key for key in RELATIONS if phrase_of((ANCHOR_OWNER, key)) == phrase]
    return f"{RARE_TOKEN} {list(CLASSES)[list(RELATIONS).index(relations[0]) % len(CLASSES)]}"


def asked(rng: random.Random) -> tuple[KnowledgeItem, str]:
    """Draw a fact, and its answer in one of its forms."""
    kind = rng.random()
    if kind < 0.65:
        key = choose(rng, list(KNOWN))
        answer = name_of(KNOWN[key])
    elif kind < 0.85:
        key = choose(rng, list(SIMPLE))
        answer = description(SIMPLE[key], rng)
    elif kind < 0.93:
        key = (ANCHOR_OWNER, choose(rng, list(RELATIONS)))
        answer = anchor_answer(phrase_of(key))
    else:
        key = choose(rng, UNKNOWN)
        thing, name = guess(rng)
        answer = name or description(thing, rng)
    return knowledge_item(*key, answer), answer


def questions(item: KnowledgeItem) -> Iterator[str]:
    """Yield a question in all its forms."""
    yield item.question
    yield from item.rephrasings
