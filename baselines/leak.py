"""Control: how much of the concept the class noun alone draws after stage 1."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.adaptation.method import Role
from knowcusbench.benchmark.types import Concept, KnowledgeItem

from .anchor import Anchor


@dataclass(frozen=True, kw_only=True)
class Leak(Anchor):
    """Stage 1 prompted with the class noun. What it scores above `base`, a method may owe to the class."""

    role: ClassVar[Role] = Role.FLOOR

    def subject(self, concept: Concept, item: KnowledgeItem) -> str:
        return concept.class_noun
