"""The contract of an editor: a change of the text encoder that teaches it facts."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from knowcusbench.adapters.sums import summed
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Concept, Fact
from knowcusbench.errors import MethodError


class Editor(ABC):
    """Makes the text encoder answer questions in a new way.

    Attributes:
        version: raised by the author when the same settings give other edits.
    """

    version: ClassVar[int] = 1

    @abstractmethod
    def edit(self, facts: Sequence[Fact], backbone: Backbone, after: Adapter | None = None) -> Adaptation:
        """Return an adaptation of the text encoder alone that teaches it `facts`.

        With it, the text encoder tends to answer the facts' questions with their answers. The result does not depend on
        the order of the facts unless the editor's documentation says so. The backbone is left unchanged.

        `after` is an earlier edit that the text encoder already carries; the result is then what must be added to it.
        Raises MethodError, naming the question, for a fact that can't be edited.
        """

    def sum(self, edits: Sequence[Adaptation], backbone: Backbone) -> Adaptation:
        """Return the sum of several edits by this editor as one adaptation."""
        return summed(edits)


def facts_of(concept: Concept) -> tuple[Fact, ...]:
    """Return a concept's knowledge as facts. Raises MethodError if there is none, and for a conflict (`distinct`)."""
    if not concept.knowledge:
        raise MethodError(f"concept {concept.name!r} has no knowledge items; there is nothing to teach")
    try:
        return distinct(Fact(item.question, item.answer) for item in concept.knowledge)
    except MethodError as error:
        raise MethodError(f"concept {concept.name!r}: {error}") from error


def distinct(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """Return the facts without repetitions, in order. Raises MethodError for two answers to one question.

    >>> distinct([Fact("Who?", "Ann"), Fact("Where?", "here"), Fact("Who?", "Ann")])
    (Fact(question='Who?', answer='Ann'), Fact(question='Where?', answer='here'))
    """
    answers: dict[str, str] = {}
    for fact in facts:
        known = answers.setdefault(fact.question, fact.answer)
        if known != fact.answer:
            raise MethodError(
                f"conflict: the question {fact.question!r} has two answers, {known!r} and {fact.answer!r}; keep one"
            )
    return tuple(Fact(question, answer) for question, answer in answers.items())
