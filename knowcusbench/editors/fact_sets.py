"""What is edited together with a concept's own knowledge: further facts, or all that the benchmark knows."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from knowcusbench.adapters.sums import summed
from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Concept, Fact
from knowcusbench.editors.base import Editor, facts_of
from knowcusbench.errors import MethodError


def first_facts(
    concept: Concept, count: int, concepts: Sequence[Concept] = (), further: Sequence[Fact] = ()
) -> tuple[Fact, ...]:
    """`count` facts to be edited at once: the concept's own, then those of the other `concepts`, each with its own
    answer, then `further` ones.

    The others' come in turns, the first item of each before the second of any, so that few facts are from many
    concepts. A smaller count gives the beginning of a larger one. Raises MethodError if there are not as many.
    """
    others = [facts_of(other) for other in concepts if other.name != concept.name and other.knowledge]
    in_turns = [fact for turn in zip_longest(*others) for fact in turn if fact]
    own = facts_of(concept)
    facts = (*own, *_compatible([*in_turns, *further], own))
    if len(facts) < count:
        raise MethodError(
            f"concept {concept.name!r}: method.items={count}, and there are {len(facts)} facts, those of other "
            "concepts and of recipe.further_facts included; lower method.items, or list more facts there"
        )
    return facts[:count]


def facts_by_concept(concept: Concept, concepts: Sequence[Concept]) -> list[tuple[Fact, ...]]:
    """The facts of all concepts, in the benchmark's order, `concept` among them with the knowledge that it has here.

    Where concepts disagree on a question's answer, `concept` is right, and otherwise the first of them.
    """
    own = facts_of(concept)
    groups: list[tuple[Fact, ...]] = []
    for other in concepts:
        if other.name == concept.name:
            groups.append(own)
        elif other.knowledge:
            known = [*own, *(fact for group in groups for fact in group)]
            groups.append(tuple(_compatible(facts_of(other), known)))
    return [group for group in groups if group] if concepts else [own]


def _compatible(facts: Sequence[Fact], known: Sequence[Fact]) -> Iterator[Fact]:
    """Those of the facts whose question is asked neither in `known` nor before."""
    asked = {fact.question for fact in known}
    for fact in facts:
        if fact.question not in asked:
            asked.add(fact.question)
            yield fact


def edit_in_turn(editor: Editor, groups: Sequence[Sequence[Fact]], backbone: Backbone) -> Adaptation:
    """One edit after another, each of a text encoder that has the earlier ones on it; the sum of all."""
    if len(groups) == 1:
        return editor.edit(groups[0], backbone)
    edits: list[Adaptation] = []
    for facts in groups:
        edits.append(editor.edit(facts, backbone, after=summed(edits).text_encoder))
    return editor.sum(edits, backbone)
