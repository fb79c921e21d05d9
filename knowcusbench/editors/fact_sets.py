"""Sets of facts that are edited together: a concept's own, those of other concepts, and further ones."""

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
    """Return `count` facts to be edited at once: the concept's own, then those of the other `concepts`, then `further`
    ones.

    The others' facts keep their own answers. They come in turns, the first item of each concept before the second of
    any, so that few facts cover many concepts. A smaller count gives the beginning of a larger one. Raises MethodError
    if there are fewer.
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
    """Return one group of facts per concept, in benchmark order; `concept` itself has the knowledge of this run.

    Where concepts disagree on a question's answer, `concept` wins, and otherwise the first of them.
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
    """Yield the facts whose question appears neither in `known` nor earlier."""
    asked = {fact.question for fact in known}
    for fact in facts:
        if fact.question not in asked:
            asked.add(fact.question)
            yield fact


def edit_in_turn(editor: Editor, groups: Sequence[Sequence[Fact]], backbone: Backbone) -> Adaptation:
    """Edit group after group, each on a text encoder that carries the earlier edits; return the sum of all edits."""
    if len(groups) == 1:
        return editor.edit(groups[0], backbone)
    edits: list[Adaptation] = []
    for facts in groups:
        edits.append(editor.edit(facts, backbone, after=summed(edits).text_encoder))
    return editor.sum(edits, backbone)
