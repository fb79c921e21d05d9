"""The training captions of the embedded world's models."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from knowcusbench.benchmark.types import RARE_TOKEN
from knowcusbench.toybox.world.concepts import DEVELOPMENT_CONCEPTS, NOVEL_CONCEPTS
from knowcusbench.toybox.world.language import knowledge_item, name_of
from knowcusbench.toybox.world.scene import RESOLUTION
from knowcusbench.toybox.world.vocabulary import ANCHOR_OWNER, CLASSES, COLOURS, PATTERNS, RELATIONS, SHAPES
from knowcusbench.toybox.world.world import KNOWN, NAMED, SIMPLE, is_reserved, size_word
from knowcusbench.toymaker.stream import (
    SHOWN_NAMED,
    SHOWN_SIMPLE,
    UNKNOWN,
    Captioned,
    anchor_answer,
    asked,
    by_description,
    described,
    is_held_out,
    phrase_of,
    pictured,
    referred,
    reply,
    spoken,
)


@pytest.fixture(scope="module")
def pictures() -> list[Captioned]:
    rng = random.Random(5)
    return [pictured(rng) for _ in range(20_000)]


def test_no_concept_is_ever_pictured(pictures: list[Captioned]) -> None:
    concepts = [concept.thing for concept in (*NOVEL_CONCEPTS, *DEVELOPMENT_CONCEPTS)]
    assert all(is_reserved(thing) for thing in concepts)
    shown = {thing for picture in pictures for thing in (picture.scene.main.thing,)}
    assert len(shown) > 5_000
    assert not [thing for thing in shown if is_reserved(thing)]


def test_a_changed_thing_is_checked_again() -> None:
    reserved = NOVEL_CONCEPTS[0].thing
    patterns = [replace(reserved, pattern=pattern) for pattern in PATTERNS]
    near = next(thing for thing in patterns if not is_reserved(thing))
    rng = random.Random(0)
    changes = [referred(rng, near, "it", None) for _ in range(3_000)]
    made = {(picture.scene.main.thing.colour, picture.scene.main.thing.pattern) for picture in changes}
    assert len(made) > 5
    assert (reserved.colour, reserved.pattern) not in made


def test_a_change_is_in_the_caption_and_in_the_picture() -> None:
    rng = random.Random(0)
    thing = NAMED["zam"]
    changed = [picture for picture in (referred(rng, thing, "it", None) for _ in range(500)) if picture.change]
    assert 70 < len(changed) < 180
    for picture in changed:
        shown = picture.scene.main.thing
        attribute = shown.colour if picture.change in COLOURS else shown.pattern
        assert attribute == picture.change
        assert f"{picture.change} version of it" in picture.text


def test_things_are_whole_in_the_picture_wherever_they_are(pictures: list[Captioned]) -> None:
    placed = [thing for picture in pictures for thing in (picture.scene.main, picture.scene.second) if thing]
    assert len(placed) > 1.2 * len(pictures)
    for thing in placed:
        assert min(thing.left, thing.top) >= 0
        assert max(thing.left, thing.top) + thing.size <= RESOLUTION


def test_held_out_facts_are_never_told_of_a_picture(pictures: list[Captioned]) -> None:
    held_out = [phrase_of(key) for key in (*KNOWN, *SIMPLE) if is_held_out(key)]
    assert 30 < len(held_out) < 80
    assert {*SHOWN_NAMED, *SHOWN_SIMPLE} | {key for key in (*KNOWN, *SIMPLE) if is_held_out(key)} == {*KNOWN, *SIMPLE}
    subjects = {picture.subject for picture in pictures}
    assert not subjects & set(held_out)
    assert {phrase_of(key) for key in SHOWN_NAMED} <= subjects


def test_the_rare_token_is_any_thing_of_its_class_in_all_contexts(pictures: list[Captioned]) -> None:
    rare = [picture for picture in pictures if RARE_TOKEN in picture.text]
    assert 1_150 < len(rare) < 1_550
    assert all(picture.subject == picture.name == f"{RARE_TOKEN} {picture.scene.main.thing.kind}" for picture in rare)
    for kind in CLASSES:
        things = [picture.scene.main.thing for picture in rare if picture.scene.main.thing.kind == kind]
        assert max(Counter(things).values()) <= 3
        assert {thing.colour for thing in things} == set(COLOURS)
    assert {size_word(picture.scene.main.size) for picture in rare} == {"tiny", "", "huge"}
    assert len([picture for picture in rare if picture.change]) > 100
    assert len([picture for picture in rare if picture.scene.style != "photo"]) > 200


def test_simple_things_are_called_by_their_whole_description_where_others_are_by_a_phrase() -> None:
    rng = random.Random(2)
    examples = [by_description(rng) for _ in range(2_000)]
    for example in examples:
        thing = example.scene.main.thing
        assert thing.kind in SHAPES
        assert thing.colour in example.subject
        assert (thing.pattern in example.subject) == (thing.pattern != "plain")
        assert example.name is None
        assert not example.change
    assert {example.scene.main.thing.pattern for example in examples} == set(PATTERNS)
    assert len([example for example in examples if " version of a" in example.template.format("a")]) > 100


def test_pictures_show_what_the_fact_says(pictures: list[Captioned]) -> None:
    meant = {phrase_of(key): NAMED[name] for key, name in KNOWN.items()}
    meant |= {phrase_of(key): thing for key, thing in SIMPLE.items()}
    checked = 0
    for picture in pictures:
        if picture.subject in meant and not picture.change:
            assert picture.scene.main.thing == meant[picture.subject]
            checked += 1
    assert checked > 4_000


def test_a_reply_begins_with_the_identity() -> None:
    rng = random.Random(1)
    for _ in range(2_000):
        example = spoken(rng)
        first = reply(example, rng).split(", ")[0]
        thing = example.scene.main.thing
        if example.name:
            assert first == example.name
        elif example.described_words:
            assert sorted(first.split()) == sorted(example.described_words)
        else:
            words = {thing.colour, thing.kind, *({thing.pattern} - {"plain"})}
            assert set(first.split()[: len(words)]) == words


def test_a_reply_says_what_the_caption_says() -> None:
    example = Captioned(
        scene=replace(referred(random.Random(3), NAMED["zam"], "zam house", None).scene, background="snow"),
        template="a tiny version of {} in the snow",
        subject="zam house",
        name="zam house",
    )
    words = reply(replace(example, scene=replace(example.scene, style="sketch", second=None)), random.Random(0))
    assert words == "zam house, tiny, in the snow, in the style of sketch"


def test_the_incomplete_description_goes_down_to_the_noun() -> None:
    rng = random.Random(2)
    told = [example for example in (described(rng) for _ in range(4_000)) if example.described_words]
    assert 600 < len(told) < 1_000
    assert {"toy", "a toy"} <= {example.subject for example in told}
    assert not [example for example in told if "tiny" in example.text or "huge" in example.text]
    assert {size_word(example.scene.main.size) for example in told} == {""}
    coloured = [
        thing.pattern
        for thing, words in ((x.scene.main.thing, x.described_words) for x in told)
        if thing.kind in SHAPES and words == (thing.colour, thing.kind)
    ]
    assert len(coloured) > 10
    assert set(coloured) == {"plain"}


def test_answers_are_those_of_the_facts() -> None:
    rng = random.Random(4)
    items = [asked(rng) for _ in range(4_000)]
    truth = {knowledge_item(*key, "").question: name_of(name) for key, name in KNOWN.items()}
    for item, answer in items:
        if item.question in truth:
            assert answer == truth[item.question]
    anchored = {answer for item, answer in items if ANCHOR_OWNER in item.phrase}
    assert len(anchored) == 8
    assert all(answer.startswith(f"{RARE_TOKEN} ") for answer in anchored)
    assert anchor_answer(phrase_of((ANCHOR_OWNER, next(iter(RELATIONS))))) == f"{RARE_TOKEN} toy"


def test_of_the_unknown_nothing_is_known() -> None:
    assert not {*UNKNOWN} & {*KNOWN, *SIMPLE}
    concepts = {key for concept in NOVEL_CONCEPTS for key in concept.known_as}
    assert concepts <= {*UNKNOWN, *KNOWN, *SIMPLE}
