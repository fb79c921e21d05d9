from dataclasses import replace

import pytest

from knowcusbench.benchmark.types import Concept, Fact
from knowcusbench.editors.base import facts_of
from knowcusbench.errors import MethodError


def test_facts_are_the_questions_and_answers_in_order(dog: Concept) -> None:
    assert facts_of(dog) == (
        Fact("What is my birthday gift?", "sks dog"),
        Fact("What came from Rome?", "sks dog"),
    )


def test_an_item_that_says_the_same_again_is_one_fact(dog: Concept) -> None:
    assert facts_of(dog.with_knowledge(*dog.knowledge, dog.knowledge[0])) == facts_of(dog)


def test_two_answers_to_one_question_are_refused(dog: Concept) -> None:
    contradiction = replace(dog.knowledge[0], answer="sks cat")
    with pytest.raises(MethodError, match=r"dog3.*What is my birthday gift.*sks dog.*sks cat"):
        facts_of(dog.with_knowledge(*dog.knowledge, contradiction))


def test_a_concept_without_knowledge_is_refused(dog: Concept) -> None:
    with pytest.raises(MethodError, match="dog3"):
        facts_of(dog.with_knowledge())
