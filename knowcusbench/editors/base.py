"""The contract of an editor: a closed-form change of what the text encoder answers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from knowcusbench.adapters.sums import summed
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Concept, Fact
from knowcusbench.errors import MethodError


class Editor(ABC):
    """Makes the text encoder answer questions in a new way, in closed form.

    Attributes:
        version: raised by the author when the same settings give other edits.
    """

    version: ClassVar[int] = 1

    @abstractmethod
    def edit(self, facts: Sequence[Fact], backbone: Backbone, after: Adapter | None = None) -> Adaptation:
        """An adaptation of the text encoder alone after which it tends to answer the facts' questions with their
        answers. The result does not depend on the order of the facts, unless the editor's documentation says so, and
        the backbone is left as it was.

        With `after`, an earlier edit, the text encoder is one that has it already: the result is what is to be added.

        Raises MethodError, naming the question, for a fact that can't be edited.
        """

    def sum(self, edits: Sequence[Adaptation], backbone: Backbone) -> Adaptation:
        """All these edits of this editor as one."""
        return summed(edits)


def facts_of(concept: Concept) -> tuple[Fact, ...]:
    """The knowledge of a concept as facts. Raises MethodError if there is none, and for a conflict (`distinct`)."""
    if not concept.knowledge:
        raise MethodError(f"concept {concept.name!r} has no knowledge items; there is nothing to teach")
    try:
        return distinct(Fact(item.question, item.answer) for item in concept.knowledge)
    except MethodError as error:
        raise MethodError(f"concept {concept.name!r}: {error}") from error


def distinct(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """The facts without repetitions, in order. Raises MethodError for a conflict: two answers to one question."""
    answers: dict[str, str] = {}
    for fact in facts:
        known = answers.setdefault(fact.question, fact.answer)
        if known != fact.answer:
            raise MethodError(
                f"conflict: the question {fact.question!r} has two answers, {known!r} and {fact.answer!r}; keep one"
            )
    return tuple(Fact(question, answer) for question, answer in answers.items())
