"""The things of the world, the held-out split and the layout of scenes."""

import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from knowcusbench.toybox.world.scene import RESOLUTION, Placed, Scene, Thing
from knowcusbench.toybox.world.vocabulary import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    OWNERS,
    PATTERNS,
    RELATIONS,
    SHAPES,
    SIZES,
    STRANGERS,
    STYLES,
)
from knowcusbench.toybox.world.world import (
    KNOWN,
    MARGIN,
    NAMED,
    SIMPLE,
    compose,
    draw_scene,
    draw_second,
    draw_thing,
    is_reserved,
    settled,
    size_word,
)


def composite(kind: str, colour: str, pattern: str) -> Thing:
    return Thing(kind=kind, colour=colour, pattern=pattern, trim="red", accent="blue")


def test_a_quarter_of_the_pairs_of_colour_and_pattern_is_reserved_in_every_class() -> None:
    for kind in CLASSES:
        reserved = [
            (colour, pattern)
            for colour in COLOURS
            for pattern in PATTERNS
            if is_reserved(composite(kind, colour, pattern))
        ]
        assert Counter(colour for colour, _ in reserved) == dict.fromkeys(COLOURS, 1)
        assert set(Counter(pattern for _, pattern in reserved).values()) == {2, 3}


def test_the_reserved_pairs_are_those_worked_out_by_hand() -> None:
    assert is_reserved(composite("toy", "red", "plain"))
    assert is_reserved(composite("toy", "orange", "checked"))
    assert is_reserved(composite("flag", "green", "plain"))
    assert not is_reserved(composite("flag", "red", "plain"))
    assert not is_reserved(Thing(kind="circle", colour="red"))


def test_no_scene_for_training_shows_a_reserved_thing_and_all_other_pairs_come_up() -> None:
    rng = random.Random(0)
    seen = set()
    for _ in range(20_000):
        scene = draw_scene(rng)
        main = scene.main.thing
        shown = [main, *([scene.second.thing] if scene.second else [])]
        assert not any(map(is_reserved, shown))
        seen.add((main.kind, main.colour, main.pattern))
    pairs = len(COLOURS) * len(PATTERNS)
    assert len(seen) == len(SHAPES) * pairs + len(CLASSES) * pairs * 3 // 4


def test_drawn_things_show_their_parts_in_three_colours() -> None:
    rng = random.Random(1)
    for _ in range(500):
        thing = draw_thing(rng)
        parts = [colour for colour in (thing.trim, thing.accent) if colour]
        assert len(parts) == (2 if thing.kind in CLASSES else 0)
        assert len({thing.colour, *parts}) == 1 + len(parts)


def test_named_things_are_all_different_and_none_is_reserved() -> None:
    assert len(set(NAMED.values())) == len(NAMED) == 32
    assert not any(map(is_reserved, NAMED.values()))
    assert Counter(thing.kind for thing in NAMED.values()) == dict.fromkeys(CLASSES, 4)


def test_what_is_known_is_about_named_things_and_not_about_strangers() -> None:
    assert len(KNOWN) == 160
    assert set(KNOWN.values()) == set(NAMED)
    assert {relation for _, relation in KNOWN} == set(RELATIONS)
    assert {owner for owner, _ in KNOWN} | {owner for owner, _ in SIMPLE} == set(OWNERS)
    assert not {owner for owner, _ in KNOWN} & {owner for owner, _ in SIMPLE}
    assert not set(OWNERS) & set(STRANGERS)
    assert KNOWN["Anna", "heirloom"] == "clun"
    assert ("Anna", "gift") not in KNOWN
    assert len(SIMPLE) == 5 * len(RELATIONS)
    assert SIMPLE["Mona", "bargain"] == Thing(kind="square", colour="green", pattern="striped")
    assert {thing.kind for thing in SIMPLE.values()} == set(SHAPES)
    assert {thing.colour for thing in SIMPLE.values()} == set(COLOURS)


def separate(one: Placed, other: Placed) -> bool:
    return one.left + one.size <= other.left or other.left + other.size <= one.left


@pytest.mark.parametrize("size", SIZES)
def test_things_stand_inside_the_picture_beside_each_other_and_keep_the_size_that_was_asked_for(size: str) -> None:
    rng = random.Random(2)
    lefts = set()
    for index in range(1000):
        second = draw_second(rng) if index % 2 else None
        scene = compose(rng, draw_thing(rng), background="snow", size=size, second=second)
        assert size_word(scene.main.size) == size
        for placed in filter(None, (scene.main, scene.second)):
            assert min(placed.left, placed.top) >= 0
            assert max(placed.left, placed.top) + placed.size <= RESOLUTION
        if scene.second:
            assert scene.second.thing == second
            assert separate(scene.main, scene.second)
            lefts.add(scene.main.left < scene.second.left)
    assert lefts == {True, False}


@pytest.mark.parametrize(
    ("background", "size", "square"),
    [
        ("beach", 30, (8, 24, 32)),
        ("meadow", 30, (16, 24, 32)),
        ("snow", 30, (24, 24, 32)),
        ("desert", 16, (8, 36, 20)),
        ("forest", 18, (20, 36, 20)),
        ("night", 18, (36, 36, 20)),
        ("street", 45, (8, 8, 48)),
    ],
)
def test_a_thing_settles_where_its_background_has_a_place(background: str, size: int, square: tuple[int, ...]) -> None:
    main = Placed(thing=Thing(kind="star", colour="red"), left=7, top=58 - size, size=size)
    scene = settled(Scene(main=main, background=background, style="sketch"))
    assert (scene.main.left, scene.main.top, scene.main.size) == square
    assert (scene.main.thing, scene.background, scene.style, scene.second) == (main.thing, background, "sketch", None)


def test_settled_scenes_of_one_background_size_and_number_of_things_have_one_layout() -> None:
    rng = random.Random(4)
    layouts: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
    for _ in range(2000):
        free = draw_scene(rng)
        scene = settled(free)
        assert size_word(scene.main.size) == size_word(free.main.size)
        squares = [(one.left, one.top, one.size) for one in (scene.main, scene.second) if one]
        assert all(min(left, top) >= MARGIN and max(left, top) + size <= 64 - MARGIN for left, top, size in squares)
        if scene.second:
            assert separate(scene.main, scene.second)
        told = (scene.background, size_word(scene.main.size), scene.second is not None)
        layouts.setdefault(told, set()).add(tuple(squares))
        assert settled(scene) == scene
    assert len(layouts) == len(BACKGROUNDS) * 3 * 2
    assert {len(found) for found in layouts.values()} == {1}
    assert len(set.union(*layouts.values())) == 3 + 3 + 1 + 3 * 2


def test_training_scenes_have_all_backgrounds_styles_and_sizes() -> None:
    rng = random.Random(3)
    scenes = [draw_scene(rng) for _ in range(500)]
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {scene.style for scene in scenes} == set(STYLES)
    assert {size_word(scene.main.size) for scene in scenes} == set(SIZES)
    assert 0.2 < np.mean([scene.second is not None for scene in scenes]) < 0.45


def test_colours_can_be_told_apart() -> None:
    for one, other in combinations(COLOURS.values(), 2):
        assert np.linalg.norm(np.subtract(one.rgb, other.rgb)) > 60
    for colour in COLOURS.values():
        assert np.linalg.norm(np.subtract(colour.rgb, colour.ink)) > 100
