"""Naive-DB, a baseline of the paper: DreamBooth once per knowledge item."""

from dataclasses import dataclass, replace
from typing import ClassVar

from knowcusbench import Adaptation, AdapterCache, Backbone, Concept, DreamBooth, Method, MethodError


@dataclass(frozen=True, kw_only=True)
class NaiveDB(Method):
    """A separate LoRA for every knowledge item, with the knowledge phrase as instance prompt.

    Attributes:
        dreambooth: settings of each training. `use_released` has no effect: the release's LoRA is for the anchor.
    """

    per_knowledge: ClassVar[bool] = True

    dreambooth: DreamBooth

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        if len(concept.knowledge) != 1:
            raise MethodError(
                f"concept {concept.name!r}: Naive-DB takes one knowledge item at a time, found {len(concept.knowledge)}"
            )
        # The release's checkpoint is for the anchor, not for a phrase.
        trained = replace(self.dreambooth, use_released=False)
        return trained.fit(concept, backbone, concept.knowledge[0].phrase, cache)

    def training_passes(self, concept: Concept) -> int:
        return self.dreambooth.training_passes
