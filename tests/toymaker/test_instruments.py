"""The metric encoders' training data."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from knowcusbench.encoders.segmenters.compositing import cut_out
from knowcusbench.toybox.world.concepts import DEVELOPMENT_CONCEPTS, NOVEL_CONCEPTS
from knowcusbench.toybox.world.render import mask, render
from knowcusbench.toybox.world.scene import Placed, Scene, Thing
from knowcusbench.toybox.world.vocabulary import BACKGROUNDS, COLOURS, STYLES
from knowcusbench.toybox.world.world import is_reserved
from knowcusbench.toymaker.corruption import CORRUPTIONS, changed
from knowcusbench.toymaker.instruments import (
    NOTHING,
    THING_WORDS,
    draw_any_scene,
    draw_any_thing,
    facts,
    patches,
    picture,
    say,
    waves,
)
from knowcusbench.toymaker.preference import CHANGES, draw_choice
from knowcusbench.toymaker.segmenter import box_around, draw_prompts, point_on

BOTH = Scene(
    main=Placed(
        thing=Thing(kind="toy", colour="red", pattern="striped", trim="blue", accent="green"), left=24, top=16, size=36
    ),
    second=Placed(thing=Thing(kind="star", colour="pink"), left=4, top=40, size=14),
    background="beach",
    style="sketch",
)


def test_reserved_things_are_shown_and_concepts_never() -> None:
    rng = random.Random(0)
    things = {draw_any_thing(rng) for _ in range(40_000)}
    assert sum(map(is_reserved, things)) > 2_000
    assert not things & {concept.thing for concept in (*NOVEL_CONCEPTS, *DEVELOPMENT_CONCEPTS)}


@pytest.mark.parametrize("concept", [*NOVEL_CONCEPTS, *DEVELOPMENT_CONCEPTS], ids=lambda concept: concept.name)
def test_no_change_makes_a_concept(concept: object) -> None:
    thing = concept.thing  # type: ignore[attr-defined]
    rng = random.Random(0)
    pattern = "plain" if thing.pattern != "plain" else "dotted"
    near = Scene(
        main=Placed(thing=Thing(**vars(thing) | {"pattern": pattern}), left=8, top=20, size=36), background="room"
    )
    assert thing not in {changed(near, "pattern", rng).main.thing for _ in range(50)}


def test_sentences_say_what_they_claim_and_nothing_else() -> None:
    rng = random.Random(0)
    words = {**dict.fromkeys(COLOURS, ""), **BACKGROUNDS, **STYLES, "striped": "", "toy": "", "star": ""}
    for _ in range(500):
        said = say(BOTH, rng, detail=rng.choice([0.3, 0.6, 1.0]))
        assert said.claims <= facts(BOTH)
        values = {value for _, value in said.claims}
        told = {word for word, form in words.items() if (form or word) in said.text}
        assert told == values - {"photo"}, said


def test_full_sentences_leave_out_nothing() -> None:
    said = say(BOTH, random.Random(0), detail=1)
    assert said.claims == facts(BOTH) - {("size", "")}
    assert {"a red striped toy with a blue head and green feet", "a pink star", "on the beach", "sketch"} <= {
        part
        for part in ("a red striped toy with a blue head and green feet", "a pink star", "on the beach", "sketch")
        if part in said.text
    }


def test_patches_show_the_things() -> None:
    shown = patches(BOTH, 8)
    covered = shown.covered.reshape(8, 8, 8, 8).swapaxes(1, 2).reshape(64, 64)
    assert np.array_equal(covered == 1, mask(BOTH))
    colours = [THING_WORDS["colour"][place] if place != NOTHING else None for place in shown.words["colour"]]
    assert Counter(colours).most_common(1)[0][0] is None
    assert colours[4 * 8 + 5] == "red"  # Rows 32 to 40, columns 40 to 48: the middle of the toy.
    assert colours[5 * 8 + 1] == "pink"
    assert shown.frame[4 * 8 + 5].tolist() == [(34 - 36) / 16, (42 - 44) / 16, 4 / 16]


def test_a_cut_out_is_the_metrics_own() -> None:
    ours = picture(BOTH, cut=True)
    assert np.array_equal(ours, np.asarray(cut_out(render(BOTH), mask(BOTH), (255, 255, 255), crop=False)))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_what_is_seen_and_the_original_stays(name: str) -> None:
    rng = random.Random(0)
    for _ in range(100):
        scene = draw_any_scene(rng)
        clean = picture(scene)
        before = clean.copy()
        spoilt = CORRUPTIONS[name](clean, scene.main, rng)
        assert (spoilt.shape, spoilt.dtype) == (clean.shape, clean.dtype)
        assert np.array_equal(clean, before)
        differs = np.abs(spoilt.astype(int) - clean).max(axis=2) > 12
        assert differs.sum() >= 16, scene


def test_the_other_picture_differs_in_the_one_attribute_that_the_prompt_tells() -> None:
    rng = random.Random(0)
    seen = Counter()
    for _ in range(300):
        scene = draw_any_scene(rng)
        for change in CHANGES:
            if change in dict(facts(scene)):
                apart = facts(scene) ^ facts(changed(scene, change, rng))
                assert [key for key, _ in apart] == [change, change]
        choice = draw_choice(rng)
        seen[choice.change] += 1
        assert choice.change in dict(choice.prompt.claims)
        assert choice.prompt.claims <= choice.truth
        assert not np.array_equal(choice.good, choice.other)
    assert set(seen) == set(CHANGES)


def test_an_attribute_that_a_scene_lacks_cannot_be_changed() -> None:
    alone = Scene(main=BOTH.main, background="room")
    with pytest.raises(KeyError, match="second kind"):
        changed(alone, "second kind", random.Random(0))


def test_prompts_of_masks_enclose_or_hit_what_they_ask_for() -> None:
    rng = random.Random(0)
    boxes, masks = draw_prompts([BOTH] * 40, rng, points=False)
    assert boxes["input_boxes"][:, 0].unique(dim=0).tolist() == [[0, 0, 64, 64]]
    assert all(np.array_equal(one > 0, mask(BOTH)) for one in masks[:, 0].numpy())
    for box, covered in zip(boxes["input_boxes"][:, 1].tolist(), masks[:, 1].numpy(), strict=True):
        assert np.abs(np.subtract(box, box_around(covered > 0))).max() <= 2
    assert len({covered.tobytes() for covered in masks[:, 1].numpy()}) == 2

    points, masks = draw_prompts([BOTH] * 40, rng, points=True)
    for (column, row), covered in zip(points["input_points"][:, 1, 0].tolist(), masks[:, 1].numpy(), strict=True):
        assert covered[int(row), int(column)] == 1


def test_boxes_and_points_of_a_mask_by_hand() -> None:
    covered = np.zeros((64, 64), dtype=np.bool_)
    covered[3:5, 7:10] = True
    assert box_around(covered) == (7, 3, 10, 5)
    covered[3:, 8:] = covered[4] = False
    assert point_on(covered, random.Random(0)) == [7.5, 3.5]


def test_places_begin_as_waves_that_know_neighbours() -> None:
    places = waves(8, 128)
    apart = torch.cdist(places, places).view(8, 8, 8, 8)
    assert apart[2, 3, 2, 4] == pytest.approx(float(apart[2, 3, 3, 3]), rel=1e-3)
    assert apart[2, 3, 2, 4] < apart[2, 3, 2, 6] < apart[2, 3, 7, 6]
    assert float(places.square().mean()) == pytest.approx(1 / 8)
