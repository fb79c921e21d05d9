"""What is evaluated: concepts with reference images, what is known about them, and prompts."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path


class Task(StrEnum):
    """`RECONSTRUCTION` prompts with the knowledge phrase alone, `GENERATION` with the phrase in a prompt."""

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
        phrase: words that refer to the concept through the knowledge ("my first birthday present"); empty if none are
            known, and the item then can't be part of a sample.
        question: the same as a question whose answer is the concept.
        answer: the wanted answer, usually the anchor `sks <class>`.
        aspect: a `KnowledgeAspect` value, `UNSPECIFIED`, or a name of the source's own.
        rephrasings: other wordings of the question, to measure generality.
    """

    phrase: str
    question: str
    answer: str
    aspect: str
    rephrasings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """A generation prompt: a template with exactly one `{}` where the concept is named, and its aspect."""

    template: str
    aspect: str

    def fill(self, subject: str) -> str:
        """The template with `subject` in its place. Other braces in the template are left alone."""
        return self.template.replace("{}", subject, 1)


@dataclass(frozen=True)
class Concept:
    """A subject to be customised, with everything the benchmark says about it.

    Attributes:
        name: the folder name, unique in the benchmark.
        class_noun: what kind of thing it is ("dog").
        images: the reference images that methods are shown, in file-name order.
        knowledge: its knowledge items.
        prompts: its own generation prompts.
        visual_checkpoint: the release's stage-1 LoRA of this concept, where there is one.
        images_digest: a digest of `images`: SHA-256 over their SHA-256 digests, in order.
        held_out: reference images that methods are not shown, in file-name order.
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
        """The anchor representation of the concept in words: `sks <class>`."""
        return f"{RARE_TOKEN} {self.class_noun}"

    def with_knowledge(self, *items: KnowledgeItem) -> "Concept":
        """The same concept, known by these items only."""
        return replace(self, knowledge=items)

    def holding_out(self, count: int) -> "Concept":
        """The same concept with its last `count` images held out."""
        if not count:
            return self
        shown, held_out = self.images[:-count], self.images[-count:]
        return replace(
            self, images=shown, held_out=held_out, images_digest=f"first {len(shown)} of {self.images_digest}"
        )


@dataclass(frozen=True)
class Benchmark:
    """A set of concepts as read from a release.

    Attributes:
        root: the directory it was read from.
        concepts: in the order of `dataset.json`.
        digest: SHA-256 over all that can change a result: names, class nouns, image bytes, knowledge, prompts.
        notes: what the reader had to assume or derive, one line each.
    """

    root: Path
    concepts: tuple[Concept, ...]
    digest: str
    notes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Fact:
    """A question and the answer that it shall have.

    Attributes:
        question: as it is put to the text encoder.
        answer: what it shall say.
    """

    question: str
    answer: str


RECONSTRUCTION_PROMPT = Prompt("{}", "reconstruction")
"""In the reconstruction task the knowledge phrase is the whole prompt."""


RARE_TOKEN = "sks"
"""The token that, before the class noun, names a learned concept (`sks dog`): the paper's anchor."""

UNSPECIFIED = "unspecified"
"""The aspect of a knowledge item or prompt whose source does not say."""
