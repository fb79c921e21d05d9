"""The oracle's training data."""

import random

import numpy as np
import pytest
import torch

from knowcusbench.toybox.models.oracle import ATTRIBUTES
from knowcusbench.toybox.models.oracle_net import pixels
from knowcusbench.toybox.world.render import render
from knowcusbench.toybox.world.scene import Placed, Scene, Thing
from knowcusbench.toybox.world.vocabulary import CLASSES, COLOURS, SHAPES
from knowcusbench.toybox.world.world import is_reserved
from knowcusbench.toymaker.oracle import disturb, draw_every_scene, labels, squares


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = random.Random(0)
    return [draw_every_scene(rng) for _ in range(4000)]


def test_every_word_of_every_attribute_comes_up_reserved_things_and_all_kinds_of_second_things_included(
    scenes: list[Scene],
) -> None:
    answers = labels(scenes)
    for name, words in ATTRIBUTES.items():
        assert set(answers[name].tolist()) == set(range(len(words)))
    composite = [scene.main.thing for scene in scenes if scene.main.thing.kind in CLASSES]
    assert np.mean([is_reserved(thing) for thing in composite]) == pytest.approx(1 / 4, abs=0.03)
    assert any(thing.trim == thing.colour for thing in composite)
    seconds = [scene.second.thing for scene in scenes if scene.second]
    assert {thing.kind for thing in seconds} == {*SHAPES, *CLASSES}
    assert any(thing.pattern != "plain" for thing in seconds)


def test_labels_are_the_places_of_words() -> None:
    thing = Thing(kind="flag", colour="orange", pattern="dotted", trim="red", accent="white")
    scene = Scene(main=Placed(thing=thing, left=10, top=10, size=44), background="meadow", style="cartoon")
    found = {name: int(places[0]) for name, places in labels([scene]).items()}
    assert found == {
        "kind": 11,
        "colour": 1,
        "pattern": 2,
        "trim": 1,
        "accent": 11,
        "background": 1,
        "style": 2,
        "size": 2,
        "second_kind": 0,
        "second_colour": 0,
    }


def test_squares_are_those_of_the_scenes() -> None:
    thing = Thing(kind="circle", colour="red")
    main, second = Placed(thing=thing, left=16, top=0, size=32), Placed(thing=thing, left=48, top=48, size=16)
    boxes, there = squares([Scene(main=main, background="snow", second=second), Scene(main=main, background="snow")])
    assert boxes[0].tolist() == [[0.0, -0.5, 0.5], [0.75, 0.75, 0.25]]
    assert there.tolist() == [[True, True], [True, False]]


def test_disturbed_pictures_are_pictures_some_of_them_untouched(scenes: list[Scene]) -> None:
    pictures = pixels([render(scene) for scene in scenes[:90]])
    one, other = (disturb(pictures, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == pictures.shape
    assert one.abs().max() <= 1
    untouched = (one == pictures).flatten(1).all(dim=1).float().mean()
    assert 0.2 < untouched < 0.5
    assert 0.01 < (one - pictures).abs().mean() < 0.2


def test_no_disturbance_makes_another_colour_of_a_colour() -> None:
    words = {name: colour.rgb for name, colour in COLOURS.items()}
    names = [name for name in words for _ in range(60)]
    pictures = torch.tensor([words[name] for name in names]).float().reshape(-1, 3, 1, 1).expand(-1, 3, 64, 64)
    generator = torch.Generator().manual_seed(0)
    seen = (disturb(pictures / 127.5 - 1, generator).mean(dim=(2, 3)) + 1) * 127.5
    for name, rgb in zip(names, seen.tolist(), strict=True):
        distances = {other: np.linalg.norm(np.subtract(rgb, words[other])) for other in words}
        assert min(distances, key=lambda other: distances[other]) == name
