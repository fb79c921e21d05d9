"""The embedded world: its things, the split held out for benchmarks, and the composition of scenes.

Held-out split. A composite class has every colour and every pattern, but a quarter of their pairs is reserved: no scene
of `draw_scene` shows them on this class. Concepts of the benchmark (and of any set for tuning methods) are taken from
the reserved pairs. So they are new as combinations, for any trim and accent, while each of their attributes is known.
"""

import random
from collections.abc import Mapping
from dataclasses import replace

from knowcusbench.toybox.world.draws import between, choose
from knowcusbench.toybox.world.scene import RESOLUTION, Placed, Scene, Thing
from knowcusbench.toybox.world.vocabulary import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    FACTS,
    NAMED_THINGS,
    PATTERNS,
    SHAPES,
    SIMPLE_FACTS,
    SIZES,
    STYLES,
    read_table,
)

NAMED: Mapping[str, Thing] = {
    row["name"]: Thing(
        kind=row["class"], colour=row["colour"], pattern=row["pattern"], trim=row["trim"], accent=row["accent"]
    )
    for row in read_table(NAMED_THINGS)
}
"""The things with their own name."""

KNOWN: Mapping[tuple[str, str], str] = {
    (row["owner"], relation): name
    for row in read_table(FACTS)
    for relation, name in row.items()
    if relation != "owner" and name != "-"
}
"""The name of the thing that stands in a relation to an owner, by owner and relation."""

SIMPLE: Mapping[tuple[str, str], Thing] = {
    (owner, row["relation"]): Thing(kind=kind, colour=colour, pattern=pattern)
    for row in read_table(SIMPLE_FACTS)
    for owner, cell in row.items()
    if owner != "relation"
    for colour, pattern, kind in [cell.split("-")]
}
"""The simple thing that stands in a relation to an owner."""

MARGIN = 2
"""Smallest distance in pixels between a thing and the edge of the picture, and between two things."""

GROUND = (54, 62)
"""Rows in which the square of a thing may end: things stand on the ground."""

SECOND_SIZE = (14, 16)
"""Range of the side of a second thing's square, in pixels."""

SETTLED_SIZES: Mapping[str, int] = {"tiny": 20, "": 32, "huge": 48}
SETTLED_GROUND = 56
SETTLED_EDGE = 8
"""Sides in pixels, lowest row and distance from the picture's edge of `settled` things."""

LATENT = 4
"""Side in pixels of one latent: settled things begin and end with one, where there is room."""


def is_reserved(thing: Thing) -> bool:
    """Return whether a thing is held out for benchmarks: a composite one whose colour and pattern are a reserved pair.

    With the indices of colour, pattern and class in the vocabulary, the pairs form a Latin square: every colour has one
    reserved pattern in every class, and every pattern two or three reserved colours.
    """
    if thing.kind not in CLASSES:
        return False
    places = ((COLOURS, thing.colour), (PATTERNS, thing.pattern), (CLASSES, thing.kind))
    return sum(list(words).index(word) for words, word in places) % len(PATTERNS) == 0


def draw_thing(rng: random.Random) -> Thing:
    """Draw a simple shape (3 in 10) or a composite thing in three different colours, never a reserved one."""
    pattern = choose(rng, PATTERNS)
    if rng.random() < 0.3:
        return Thing(kind=choose(rng, SHAPES), colour=choose(rng, list(COLOURS)), pattern=pattern)
    kind = choose(rng, list(CLASSES))
    free = [colour for colour in COLOURS if not is_reserved(Thing(kind=kind, colour=colour, pattern=pattern))]
    colour = choose(rng, free)
    trim = choose(rng, [other for other in COLOURS if other != colour])
    accent = choose(rng, [other for other in COLOURS if other not in (colour, trim)])
    return Thing(kind=kind, colour=colour, pattern=pattern, trim=trim, accent=accent)


def draw_second(rng: random.Random) -> Thing:
    """Draw a plain simple shape, as used for second things."""
    return Thing(kind=choose(rng, SHAPES), colour=choose(rng, list(COLOURS)))


def draw_scene(rng: random.Random) -> Scene:
    """Draw a training scene without reserved things.

    A third have a second thing, half are photos, and three in five show things of the middle size.
    """
    thing = draw_thing(rng)
    second = draw_second(rng) if rng.random() < 1 / 3 else None
    style = "photo" if rng.random() < 1 / 2 else choose(rng, [style for style in STYLES if style != "photo"])
    size = "" if rng.random() < 3 / 5 else choose(rng, ["tiny", "huge"])
    return compose(rng, thing, background=choose(rng, list(BACKGROUNDS)), style=style, size=size, second=second)


def compose(
    rng: random.Random,
    thing: Thing,
    *,
    background: str,
    style: str = "photo",
    size: str = "",
    second: Thing | None = None,
) -> Scene:
    """Compose a scene with `thing` somewhere on the ground, and a second thing at its side if given."""
    side = between(rng, *SIZES[size])
    bottom = between(rng, *GROUND)
    if second is None:
        left = between(rng, MARGIN, RESOLUTION - MARGIN - side)
        main = Placed(thing=thing, left=left, top=bottom - side, size=side)
        return Scene(main=main, background=background, style=style)
    other = between(rng, *SECOND_SIZE)
    side = min(side, RESOLUTION - 3 * MARGIN - other)
    width = side + MARGIN + other
    left = between(rng, MARGIN, RESOLUTION - MARGIN - width)
    main_left, second_left = (left, left + width - other) if rng.random() < 1 / 2 else (left + width - side, left)
    return Scene(
        main=Placed(thing=thing, left=main_left, top=bottom - side, size=side),
        background=background,
        style=style,
        second=Placed(thing=second, left=second_left, top=bottom - other, size=other),
    )


def settled(scene: Scene) -> Scene:
    """Return the scene in its settled layout: one size per size word, and one position per background.

    The main thing stands at the left, in the middle or at the right; next to a second thing at the left or the right.

    A small transformer learns to draw such pictures. The thousands of layouts of `compose` cost it its contours. Of a
    few layouts without a word that decides between them it draws two at once, above all tiny and second things. Models
    that read pictures learn from all layouts.
    """
    main, second, side = scene.main, scene.second, SETTLED_SIZES[size_word(scene.main.size)]
    spot = list(BACKGROUNDS).index(scene.background)
    if second is None:
        left = SETTLED_EDGE + spot % 3 * (RESOLUTION - 2 * SETTLED_EDGE - side) // (2 * LATENT) * LATENT
        return replace(scene, main=replace(main, left=left, top=SETTLED_GROUND - side, size=side))
    other = SECOND_SIZE[1]
    side = min(side, RESOLUTION - 3 * MARGIN - other)
    left = min(SETTLED_EDGE, RESOLUTION - 2 * MARGIN - other - side)
    beside = min(-(-(left + side + MARGIN) // LATENT) * LATENT, RESOLUTION - MARGIN - other)
    if spot % 2:
        left, beside = RESOLUTION - left - side, RESOLUTION - beside - other
    return replace(
        scene,
        main=replace(main, left=left, top=SETTLED_GROUND - side, size=side),
        second=replace(second, left=beside, top=SETTLED_GROUND - other, size=other),
    )


def size_word(size: int) -> str:
    """Return the size word for a side in pixels: the word of `SIZES` with the nearest range."""

    def distance(word: str) -> int:
        smallest, largest = SIZES[word]
        return max(smallest - size, size - largest, 0)

    return min(SIZES, key=distance)
