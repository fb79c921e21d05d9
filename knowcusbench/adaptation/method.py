"""The contract of a method."""

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import ClassVar

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Concept, KnowledgeItem


class Role(StrEnum):
    """The role of a method in comparisons, in the order of tables.

    Floors are controls that measure what is achieved without knowledge; ceilings measure what stage 1 allows. Only
    methods are ranked.
    """

    FLOOR = "floor"
    METHOD = "method"
    CEILING = "ceiling"

    @property
    def place(self) -> int:
        """Sort key: position in the order of tables."""
        return list(Role).index(self)


class Method(ABC):
    """The contract of methods: turn a concept and its knowledge into an adaptation of the backbone.

    A method is a keyword-only dataclass in a file of its own; `configs/method/<name>.yaml` names it by `_target_` and
    fills its fields.

    Attributes:
        per_knowledge: False if one adaptation serves all knowledge of a concept. True if every knowledge item gets its
            own: `adapt` is then called with one-item concepts, and the result for an item must not depend on the
            others.
        role: its role in comparisons.
        version: raised by the author when the same settings give other adaptations or subjects.
    """

    role: ClassVar[Role] = Role.METHOD
    version: ClassVar[int] = 1
    per_knowledge: ClassVar[bool] = False

    @abstractmethod
    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        """Customise `backbone` for `concept`.

        The backbone is resident and must be left unchanged. Random numbers come from the method's own generators,
        seeded from its configuration, so that the same inputs give the same bytes. Expensive parts that other methods
        can reuse (stage 1) go through `cache`. Raises MethodError for a concept that the method can't handle.
        """

    def for_benchmark(self, concepts: tuple[Concept, ...]) -> "Method":
        """Bind the method to a benchmark.

        `concepts` are all of its concepts, also those the grid leaves out. Override only if `adapt` needs to see other
        concepts.
        """
        return self

    def subject(self, concept: Concept, item: KnowledgeItem) -> str:
        """Return the words that name the concept in a prompt: the knowledge phrase, unless a control overrides this."""
        return item.phrase

    def training_passes(self, concept: Concept) -> int:
        """Return the number of forward and backward passes of the transformer, at batch 1, that `adapt` takes for
        `concept`.

        The plan estimates its cost from them.
        """
        return 0
