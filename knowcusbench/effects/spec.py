"""The settings of side-effect measurements."""

from dataclasses import dataclass

from knowcusbench.backbone.base import QuestionForm
from knowcusbench.benchmark.types import Fact
from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.storage.digests import content_id


@dataclass(frozen=True, kw_only=True)
class EffectsSpec:
    """Settings of side-effect measurements, in addition to a run's samples.

    Attributes:
        enabled: whether `bench` measures side effects.
        questions, prompts: unrelated to any concept.
        seeds: seeds of the images of the prompts.
        question_form: how questions are put to the text encoder.
        interference: whether to apply the adaptations of all concepts at once.
        encoder: compares images.
        protocol: digest of everything that determines a number.
    """

    enabled: bool
    questions: tuple[Fact, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    question_form: QuestionForm
    interference: bool
    encoder: ClipSpec
    protocol: str

    @property
    def pictures(self) -> list["Unrelated"]:
        """Unrelated images, prompt by prompt, one per seed."""
        return [Unrelated(prompt, seed) for prompt in self.prompts for seed in self.seeds]


@dataclass(frozen=True)
class Unrelated:
    """An image unrelated to any concept."""

    prompt: str
    seed: int

    @property
    def id(self) -> str:
        """Hash of prompt and seed (16 hex digits)."""
        return content_id(self.prompt, self.seed)
