"""Control: how much of the concept the class noun alone shows after stage 1."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench import Concept, KnowledgeItem, Role

from .anchor import Anchor


@dataclass(frozen=True, kw_only=True)
class Leak(Anchor):
    """Stage 1 prompted with the class noun. A method may owe to the class what this scores above `base`."""

    role: ClassVar[Role] = Role.FLOOR

    def subject(self, concept: Concept, item: KnowledgeItem) -> str:
        return concept.class_noun
