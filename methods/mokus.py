"""MoKus (arXiv 2603.12743)."""

from dataclasses import dataclass

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.dreambooth import DreamBooth
from knowcusbench.adaptation.editor import Editor, facts_of
from knowcusbench.adaptation.method import Method
from knowcusbench.adaptation.types import Adaptation
from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Concept


@dataclass(frozen=True, kw_only=True)
class MoKus(Method):
    """Visual concept learning, then textual knowledge updating.

    Stage 1 teaches the transformer that the anchor `sks <class>` shows the concept. Stage 2 edits the text encoder so
    that every question about the concept is answered by the anchor, all of them in one edit.
    """

    dreambooth: DreamBooth
    editor: Editor

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        facts = facts_of(concept)
        visual = self.dreambooth.fit(concept, backbone, concept.anchor, cache)
        return visual.joined(self.editor.edit(facts, backbone))

    def training_passes(self, concept: Concept) -> int:
        return self.dreambooth.training_passes
