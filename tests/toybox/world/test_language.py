"""Captions, prompts, questions and answers."""

import random
import re

import pytest

from knowcusbench.benchmark.types import PromptAspect
from knowcusbench.toybox.world.language import PROMPTS, Wish, caption, describe, knowledge_item, known_items, name_of
from knowcusbench.toybox.world.scene import Placed, Scene, Thing
from knowcusbench.toybox.world.vocabulary import BACKGROUNDS, COLOURS, OWNERS, RELATIONS, STRANGERS, sentences
from knowcusbench.toybox.world.world import draw_scene

TOY = Thing(kind="toy", colour="orange", pattern="striped", trim="orange", accent="blue")


@pytest.mark.parametrize(
    ("thing", "size", "words"),
    [
        (Thing(kind="star", colour="red"), "", "a red star"),
        (Thing(kind="star", colour="orange", pattern="dotted"), "", "an orange dotted star"),
        (Thing(kind="star", colour="orange"), "tiny", "a tiny orange star"),
        (TOY, "", "an orange striped toy with an orange head and blue feet"),
        (
            Thing(kind="cake", colour="white", trim="pink", accent="red"),
            "huge",
            "a huge white cake with pink icing and a red candle",
        ),
    ],
)
def test_things_are_described_with_all_their_attributes(thing: Thing, size: str, words: str) -> None:
    assert describe(thing, size) == words


def test_captions_say_everything_about_a_scene() -> None:
    second = Placed(thing=Thing(kind="heart", colour="blue"), left=44, top=40, size=14)
    scene = Scene(main=Placed(thing=TOY, left=4, top=20, size=18), background="night", style="pixel art", second=second)
    toy = "a tiny orange striped toy with an orange head and blue feet"
    seconds = ("next to a blue heart", "with a blue heart beside it")
    expected = {f"pixel art of {toy} {words} under the stars" for words in seconds}
    expected |= {f"{toy} {words} under the stars in the style of pixel art" for words in seconds}
    rng = random.Random(0)
    assert {caption(scene, rng) for _ in range(60)} == expected


def test_captions_can_call_the_thing_by_a_name() -> None:
    rng = random.Random(0)
    plain = Scene(main=Placed(thing=TOY, left=4, top=20, size=30), background="snow")
    assert {caption(plain, rng, "zam house") for _ in range(30)} == {
        "a photo of zam house in the snow",
        "zam house in the snow",
    }
    huge = Scene(main=Placed(thing=TOY, left=4, top=10, size=46), background="snow", style="sketch")
    assert "a sketch of a huge version of zam house in the snow" in {caption(huge, rng, "zam house") for _ in range(30)}


def test_prompts_know_what_they_ask_for() -> None:
    assert PROMPTS["a photo of {} on the beach"] == Wish(aspect=PromptAspect.BACKGROUND_CHANGE, background="beach")
    assert PROMPTS["{} next to an orange arch"] == Wish(
        aspect=PromptAspect.OBJECT_INSERTION, second=Thing(kind="arch", colour="orange")
    )
    assert PROMPTS["{} in the style of a sketch"] == Wish(aspect=PromptAspect.STYLE_TRANSFER, style="sketch")
    modification = PromptAspect.ATTRIBUTE_MODIFICATION
    assert PROMPTS["an orange version of {}"] == Wish(aspect=modification, colour="orange")
    assert PROMPTS["a striped version of {}"] == Wish(aspect=modification, pattern="striped")
    assert PROMPTS["a huge version of {}"] == Wish(aspect=modification, size="huge")
    assert {wish.aspect for wish in PROMPTS.values()} == set(PromptAspect)
    assert all(template.count("{}") == 1 for template in PROMPTS)


def test_prompts_are_said_as_captions_are() -> None:
    """All but "a green version of {}" and "a striped version of {}", which mention an attribute that a name implies."""
    rng = random.Random(1)
    captions = {caption(draw_scene(rng), rng, "{}") for _ in range(20_000)}
    said = captions | {text.replace(f" {place}", "") for text in captions for place in BACKGROUNDS.values()}
    described = {prompt for prompt, wish in PROMPTS.items() if wish.colour or wish.pattern}
    beside = {prompt for prompt, wish in PROMPTS.items() if wish.second}
    assert set(PROMPTS) - described - beside <= said
    assert {"{} next to a red star", "a photo of {} with a red star beside it"} <= said
    assert not described & said


def test_knowledge_has_an_aspect_and_is_asked_for_in_several_ways() -> None:
    item = knowledge_item("my sister", "charm", "sks cake")
    assert item.phrase == "my sister's lucky charm"
    assert item.question == "What is my sister's lucky charm?"
    assert item.answer == "sks cake"
    assert item.aspect == "emotion"
    assert item.rephrasings == ("What brings my sister luck?", "Which thing makes my sister feel lucky?")


def test_every_phrase_and_every_question_is_about_one_thing_only() -> None:
    items = [knowledge_item(owner, relation, "") for owner in (*OWNERS, *STRANGERS) for relation in RELATIONS]
    phrases = [item.phrase for item in items]
    questions = [question for item in items for question in (item.question, *item.rephrasings)]
    assert len(set(phrases)) == len(phrases)
    assert len(set(questions)) == len(questions) == 3 * len(items)
    assert all(question[0].isupper() and question.endswith("?") for question in questions)


def test_known_answers_name_a_thing_and_its_class() -> None:
    answers = {item.question: item.answer for item in known_items()}
    assert len(answers) == 160
    assert answers["What is the heirloom of Anna's family?"] == "clun boat"
    assert name_of("zam") == "zam house"


def test_the_sentences_hold_every_word_that_the_world_says() -> None:
    def words(text: str) -> list[str]:
        return re.findall(r"\w+", text)

    rng = random.Random(2)
    said = [caption(draw_scene(rng), rng) for _ in range(3000)]
    said += [prompt.replace("{}", "sks") for prompt in PROMPTS]
    for item in known_items():
        said += [item.phrase, item.question, item.answer, *item.rephrasings]
    known = {word for sentence in sentences() for word in words(sentence)}
    assert {word for text in said for word in words(text)} <= known
    assert set(COLOURS) <= known
