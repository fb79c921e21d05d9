"""Enc-FT, a baseline of the paper: the anchor, then gradient fine-tuning of the text encoder."""

from dataclasses import dataclass

from knowcusbench import Adaptation, AdapterCache, Backbone, Concept, DreamBooth, EncoderTuning, Method, facts_of


@dataclass(frozen=True, kw_only=True)
class EncFT(Method):
    """Stage 1 as in MoKus; stage 2 is gradient descent on the same questions and answers.

    Attributes:
        dreambooth: stage 1.
        encoder_tuning: stage 2.
    """

    dreambooth: DreamBooth
    encoder_tuning: EncoderTuning

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        facts = facts_of(concept)
        visual = self.dreambooth.fit(concept, backbone, concept.anchor, cache)
        return visual.joined(self.encoder_tuning.fit(facts, backbone))

    def training_passes(self, concept: Concept) -> int:
        return self.dreambooth.training_passes
