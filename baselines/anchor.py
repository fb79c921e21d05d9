"""Control: the ceiling of stage 2, images of the learned anchor itself."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench import Adaptation, AdapterCache, Backbone, Concept, DreamBooth, KnowledgeItem, Method, Role


@dataclass(frozen=True, kw_only=True)
class Anchor(Method):
    """Stage 1 prompted with `sks <class>`: at best, an edit of the text encoder is read as the anchor.

    Attributes:
        dreambooth: stage 1.
    """

    role: ClassVar[Role] = Role.CEILING

    dreambooth: DreamBooth

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        return self.dreambooth.fit(concept, backbone, concept.anchor, cache)

    def subject(self, concept: Concept, item: KnowledgeItem) -> str:
        return concept.anchor

    def training_passes(self, concept: Concept) -> int:
        return self.dreambooth.training_passes
