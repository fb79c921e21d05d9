"""The parts of a benchmark: concepts with reference images, knowledge about them, and prompts."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path


class Task(StrEnum):
    """The two tasks: `RECONSTRUCTION` prompts with the knowledge phrase alone, `GENERATION` with the phrase in a
    prompt."""

    RECONSTRUCTION = "reconstruction"
    GENERATION = "generation"


class KnowledgeAspect(StrEnum):
    """The six kinds of knowledge of KnowCusBench."""

    PERSONAL_RELATIONSHIP = "personal_relationship"
    PHYSICAL_ATTRIBUTE = "physical_attribute"
    FUNCTIONALITY = "functionality"
    VALUE = "value"
    ORIGIN = "origin"
    EMOTION = "emotion"


class PromptAspect(StrEnum):
    """The four kinds of generation prompts of KnowCusBench."""

    BACKGROUND_CHANGE = "background_change"
    OBJECT_INSERTION = "object_insertion"
    STYLE_TRANSFER = "style_transfer"
    ATTRIBUTE_MODIFICATION = "attribute_modification"


@dataclass(frozen=True)
class KnowledgeItem:
    """One piece of knowledge about a concept.

    Attributes:
        phrase: words that refer to the concept through the knowledge ("my first birthday present"); empty if unknown,
            and the item then can't be part of a sample.
        question: a question with the same meaning, whose answer is the concept.
        answer: the wanted answer, usually the anchor `sks <class>`.
        aspect: a `KnowledgeAspect` value, `UNSPECIFIED`, or the source's own name.
        rephrasings: other wordings of the question, to measure generality.
    """

    phrase: str
    question: str
    answer: str
    aspect: str
    rephrasings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """A generation prompt: a template with exactly one `{}` for the concept, and its aspect."""

    template: str
    aspect: str

    def fill(self, subject: str) -> str:
        """Return the template with `subject` in place of `{}`. Other braces in the template are left unchanged.

        >>> Prompt("{} on the beach", "background_change").fill("my first birthday present")
        'my first birthday present on the beach'
        """
        return self.template.replace("{}", subject, 1)


@dataclass(frozen=True)
class Concept:
    """A subject to be customised, with everything that the benchmark knows about it.

    Attributes:
        name: the folder name, unique in the benchmark.
        class_noun: noun for its kind ("dog").
        images: the reference images that methods see, in file-name order.
        knowledge: its knowledge items.
        prompts: its own generation prompts.
        visual_checkpoint: folder of the release's stage-1 LoRA for this concept, if any.
        images_digest: a digest of `images`: SHA-256 over their SHA-256 digests, in order.
        held_out: reference images that methods never see, in file-name order.
    """

    name: str
    class_noun: str
    images: tuple[Path, ...]
    knowledge: tuple[KnowledgeItem, ...]
    prompts: tuple[Prompt, ...]
    visual_checkpoint: Path | None = None
    images_digest: str = ""
    held_out: tuple[Path, ...] = ()

    @property
    def anchor(self) -> str:
        """The concept's anchor in words: `sks <class>`."""
        return f"{RARE_TOKEN} {self.class_noun}"

    def with_knowledge(self, *items: KnowledgeItem) -> "Concept":
        """Return the same concept with only these knowledge items."""
        return replace(self, knowledge=items)

    def holding_out(self, count: int) -> "Concept":
        """Return the same concept with its last `count` images held out."""
        if not count:
            return self
        shown, held_out = self.images[:-count], self.images[-count:]
        return replace(
            self, images=shown, held_out=held_out, images_digest=f"first {len(shown)} of {self.images_digest}"
        )


@dataclass(frozen=True)
class Benchmark:
    """A set of concepts read from a release.

    Attributes:
        root: the release's directory.
        concepts: its concepts, in the order of `dataset.json`.
        digest: SHA-256 over everything that can change a result: names, class nouns, image bytes, knowledge, prompts.
        notes: assumptions and derived values, one line each.
    """

    root: Path
    concepts: tuple[Concept, ...]
    digest: str
    notes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Fact:
    """A question and the answer to be taught.

    Attributes:
        question: the question as put to the text encoder.
        answer: the wanted answer.
    """

    question: str
    answer: str


RECONSTRUCTION_PROMPT = Prompt("{}", "reconstruction")
"""The reconstruction task's prompt: the knowledge phrase alone."""


RARE_TOKEN = "sks"
"""The token that names a learned concept before its class noun (`sks dog`): the paper's anchor."""

UNSPECIFIED = "unspecified"
"""The aspect of a knowledge item or prompt whose source does not state one."""
