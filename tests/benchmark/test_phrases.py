import json
from pathlib import Path

import pytest

from knowcusbench.benchmark.phrases import derive_phrase


@pytest.mark.parametrize(
    ("question", "phrase"),
    [
        ("What is my birthday gift?", "my birthday gift"),
        ("who was the Guardian of our garden ?", "the Guardian of our garden"),
        ("What's Beethoven's favourite instrument?", "Beethoven's favourite instrument"),
        ("Which is our children’s lucky charm?", "our children’s lucky charm"),
        ("What do I drive on Sundays?", "what I drive on Sundays"),
        ("What keeps my feet warm?", "what keeps my feet warm"),
        ("Who guards the house at night?", "who guards the house at night"),
        ("What is the thing that is mine", "the thing that is mine"),
        ("What is what I drive on Sundays?", "what I drive on Sundays"),
        ("Who is who guards the house at night?", "who guards the house at night"),
        ("What is John's cat called?", "John's cat"),
        ("What was my  first\ncar named?", "my first car"),
        ("What is the name of my birthday gift?", "my birthday gift"),
        ("What is Mr Smith's favourite mug?", "Mr Smith's favourite mug"),
        ("What is James' lucky charm?", "James' lucky charm"),
        ("What is the cat called Tom?", "the cat called Tom"),
    ],
)
def test_the_phrase_follows_from_the_question(question: str, phrase: str) -> None:
    assert derive_phrase(question) == phrase


@pytest.mark.parametrize(
    "question",
    [
        "What did the singer wear?",  # "what the singer wore": a verb would have to be inflected
        "What does my son hug?",
        "What is guarding our garden?",  # no determiner: not a noun phrase
        "What is guarding Anna's garden?",
        "Where is my gift?",
        "What can fly?",
        "my birthday gift",
        "What?",
        "",
    ],
)
def test_no_phrase_is_made_up(question: str) -> None:
    assert derive_phrase(question) is None


def test_the_rules_agree_with_phrases_written_by_hand(sample_benchmark: Path) -> None:
    items = [
        item for file in (sample_benchmark / "knowledge_data").glob("*.json") for item in json.loads(file.read_text())
    ]

    derived = {item["question"]: derive_phrase(item["question"]) for item in items}

    underivable = [question for question, phrase in derived.items() if phrase is None]
    assert underivable == ["What did the singer wear on stage?"]
    assert all(derived[item["question"]] in (item["knowledge"], None) for item in items)
