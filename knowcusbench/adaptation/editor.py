"""The contract of an editor: a closed-form change of what the text encoder answers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from knowcusbench.adaptation.types import Adaptation
from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Concept
from knowcusbench.errors import MethodError


@dataclass(frozen=True)
class Fact:
    """A question and the answer that it shall have."""

    question: str
    answer: str


class Editor(ABC):
    """Makes the text encoder answer questions in a new way, in closed form."""

    @abstractmethod
    def edit(self, facts: Sequence[Fact], backbone: Backbone) -> Adaptation:
        """An adaptation of the text encoder alone after which it tends to answer the facts' questions with their
        answers. The result does not depend on the order of the facts, and the backbone is left as it was.

        Raises MethodError, naming the question, for a fact that can't be edited.
        """


def facts_of(concept: Concept) -> tuple[Fact, ...]:
    """The knowledge of a concept as facts. Raises MethodError if there is none, and for two answers to one question."""
    if not concept.knowledge:
        raise MethodError(f"concept {concept.name!r} has no knowledge items; there is nothing to teach")
    answers: dict[str, str] = {}
    for item in concept.knowledge:
        known = answers.setdefault(item.question, item.answer)
        if known != item.answer:
            raise MethodError(
                f"concept {concept.name!r}: the question {item.question!r} has two answers, {known!r} and "
                f"{item.answer!r}; keep one"
            )
    return tuple(Fact(question, answer) for question, answer in answers.items())
