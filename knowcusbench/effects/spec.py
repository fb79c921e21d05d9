"""What is measured beside a run's samples."""

from dataclasses import dataclass

from knowcusbench.backbone.base import QuestionForm
from knowcusbench.benchmark.types import Fact
from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.storage.digests import content_id


@dataclass(frozen=True, kw_only=True)
class EffectsSpec:
    """What is measured beside a run's samples, and how.

    Attributes:
        enabled: whether `bench` measures it.
        questions, prompts: what has nothing to do with any concept.
        seeds: of the pictures of the prompts.
        question_form: how questions are put to the text encoder.
        interference: whether to apply the adaptations of all concepts at once.
        encoder: compares pictures.
        protocol: digest of all that decides a number.
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
        """Prompt by prompt, one per seed."""
        return [Unrelated(prompt, seed) for prompt in self.prompts for seed in self.seeds]


@dataclass(frozen=True)
class Unrelated:
    """A picture that has nothing to do with any concept."""

    prompt: str
    seed: int

    @property
    def id(self) -> str:
        """16 hex digits, a hash of prompt and seed."""
        return content_id(self.prompt, self.seed)
