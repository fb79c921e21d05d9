"""Effects of an adaptation on the text encoder: its answers, and the embeddings that condition the transformer.

Efficacy, generality and locality are those of knowledge editing (ROME, arXiv 2202.05262; UltraEdit, arXiv 2505.14679),
with probabilities instead of accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from knowcusbench.backbone.base import Backbone, QuestionForm
from knowcusbench.benchmark.types import Concept, Fact
from knowcusbench.storage.digests import Memo

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

CACHE_SIZE = 1024
"""Answers and embeddings of the base model held in memory: 0.6 GiB with Qwen-Image's vocabulary of 152,064."""


class QuestionKind(StrEnum):
    """The kinds of questions and prompts given to the text encoder.

    The adaptation's own knowledge: `QUESTION`, `REPHRASING` (of a question), `PHRASE` (as a prompt), and `TAUGHT`
    (questions of every fact in the edit, which may be more or fewer than the concept's own). Knowledge that should stay
    unchanged: `UNRELATED_QUESTION`, `OTHER_CONCEPT` (questions of other concepts that the edit does not teach),
    `CLASS_PROMPT` (the concept's prompts with the class noun), `UNRELATED_PROMPT`.
    """

    QUESTION = "question"
    REPHRASING = "rephrasing"
    PHRASE = "phrase"
    TAUGHT = "taught"
    UNRELATED_QUESTION = "unrelated_question"
    OTHER_CONCEPT = "other_concept"
    CLASS_PROMPT = "class_prompt"
    UNRELATED_PROMPT = "unrelated_prompt"


EFFICACY = (QuestionKind.QUESTION, QuestionKind.REPHRASING, QuestionKind.TAUGHT, QuestionKind.UNRELATED_QUESTION)
"""Kinds whose answer probability is measured."""

LOCALITY = (QuestionKind.UNRELATED_QUESTION, QuestionKind.OTHER_CONCEPT, QuestionKind.CLASS_PROMPT)
"""Kinds whose answer should stay the same."""

COLUMNS = ["probe", "text", "measure", "base", "value"]
"""Columns of `text_effects`. `base` is the same measure before the adaptation; NaN for a measure that itself compares
with the base model."""


@dataclass(frozen=True)
class TextProbes:
    """Inputs of the text encoder before and after: facts to be answered, and prompts to be embedded, by kind."""

    facts: Mapping[QuestionKind, tuple[Fact, ...]]
    prompts: Mapping[QuestionKind, tuple[str, ...]]


def text_probes(
    concept: Concept,
    others: Sequence[Concept],
    questions: Sequence[Fact],
    prompts: Sequence[str],
    taught: Sequence[Fact] | None = None,
) -> TextProbes:
    """Return the probes of an adaptation to `concept` (with the knowledge that it was given).

    `others` are the other concepts; `questions` and `prompts` are the unrelated ones; `taught` are all facts in the
    edit, None for the concept's own. A question among these, or of the concept's own, does not count as another
    concept's.
    """
    own = tuple(Fact(item.question, item.answer) for item in concept.knowledge)
    taught = own if taught is None else tuple(taught)
    meant = {fact.question for fact in (*own, *taught)}
    foreign = [Fact(item.question, item.answer) for other in others for item in other.knowledge]
    class_prompts = [prompt.fill(concept.class_noun) for prompt in concept.prompts]
    return TextProbes(
        facts={
            QuestionKind.QUESTION: own,
            QuestionKind.REPHRASING: tuple(
                Fact(text, item.answer) for item in concept.knowledge for text in item.rephrasings
            ),
            QuestionKind.TAUGHT: taught,
            QuestionKind.UNRELATED_QUESTION: tuple(questions),
            QuestionKind.OTHER_CONCEPT: tuple(fact for fact in foreign if fact.question not in meant),
            # A prompt's answer has no effect: nothing before its first token depends on it.
            QuestionKind.CLASS_PROMPT: tuple(Fact(prompt, concept.class_noun) for prompt in class_prompts),
        },
        prompts={
            QuestionKind.PHRASE: tuple(item.phrase for item in concept.knowledge),
            QuestionKind.UNRELATED_PROMPT: tuple(prompts),
        },
    )


@dataclass(frozen=True)
class Answer:
    """The text encoder's answer to a question.

    Attributes:
        next_token: log-probabilities (vocabulary,) at the answer's first token, fp32 on the CPU.
        first: id of the wanted answer's first token.
        log_probability: log-probability of the whole wanted answer, each token given those before it.
    """

    next_token: Tensor
    first: int
    log_probability: float

    @property
    def first_probability(self) -> float:
        return math.exp(float(self.next_token[self.first]))

    @property
    def first_rank(self) -> int:
        """Rank of the first token, 1 for the most likely one. The last rank if the logits are not numbers."""
        return int((~(self.next_token <= self.next_token[self.first])).sum()) + 1

    @property
    def probability(self) -> float:
        return math.exp(self.log_probability)


def read_answer(backbone: Backbone, fact: Fact, form: QuestionForm) -> Answer:
    """Ask the text encoder in its present adaptation. Raises MethodError for a question that can't be asked."""
    import torch

    input_ids, labels = backbone.question_tokens(fact.question, fact.answer, form)
    tokens = labels[0, labels[0] >= 0]
    with torch.no_grad():
        logits = backbone.language_logits(input_ids)[0, labels[0] >= 0]
    log_probabilities = logits.float().log_softmax(-1)
    whole = log_probabilities.gather(1, tokens[:, None]).double().sum()
    return Answer(log_probabilities[0].cpu(), int(tokens[0]), float(whole))


@dataclass(frozen=True)
class TextReading:
    """All answers, and the embeddings (length, dim) of all prompts."""

    answers: Mapping[Fact, Answer]
    embeds: Mapping[str, Tensor]


def read_text(backbone: Backbone, probes: TextProbes, form: QuestionForm) -> TextReading:
    """Return all answers and embeddings of the text encoder in its present adaptation."""
    facts, prompts = _distinct(probes.facts), _distinct(probes.prompts)
    return TextReading(
        {fact: read_answer(backbone, fact, form) for fact in facts},
        {prompt: _embed(backbone, prompt) for prompt in prompts},
    )


_base_answers: Memo[tuple[str, QuestionForm, Fact], Answer] = Memo(CACHE_SIZE)
_base_embeds: Memo[tuple[str, str], Tensor] = Memo(CACHE_SIZE)


def read_base_text(backbone: Backbone, probes: TextProbes, form: QuestionForm) -> TextReading:
    """Return all answers and embeddings of the unadapted text encoder.

    They are computed once for each digest of the base weights, and cached in the process.
    """
    facts, prompts = _distinct(probes.facts), _distinct(probes.prompts)
    answers = _base_answers.fetch(
        [(backbone.digest, form, fact) for fact in facts],
        lambda missing: [read_answer(backbone, fact, form) for _, form, fact in missing],
    )
    embeds = _base_embeds.fetch(
        [(backbone.digest, prompt) for prompt in prompts],
        lambda missing: [_embed(backbone, prompt) for _, prompt in missing],
    )
    return TextReading(dict(zip(facts, answers, strict=True)), dict(zip(prompts, embeds, strict=True)))


def _distinct(groups: Mapping[QuestionKind, Sequence[T]]) -> list[T]:
    return list(dict.fromkeys(value for values in groups.values() for value in values))


def _embed(backbone: Backbone, prompt: str) -> Tensor:
    """Return the embeddings (length, dim) of a prompt's tokens. Padding is left out, even where it conditions."""
    encoded = backbone.encode(prompt)
    embeds = encoded.embeds[0]
    return (embeds if encoded.mask is None else embeds[encoded.mask[0].bool()]).cpu()


def kl_divergence(log_p: Tensor, log_q: Tensor) -> float:
    """Return `KL(p || q) = sum_i p_i (log p_i - log q_i)` in nats, of two vectors (n,) of log-probabilities, in fp64.

    >>> import torch
    >>> round(kl_divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()), 4)
    0.1438
    """
    # Normalised again: fp32 rounding could make a small divergence negative.
    log_p, log_q = log_p.double().log_softmax(0), log_q.double().log_softmax(0)
    return float((log_p.exp() * (log_p - log_q)).sum())


def token_cosines(one: Tensor, other: Tensor) -> Tensor:
    """Return cosines (length,) of the tokens of two embeddings (length, dim), in fp64; exactly 1 for equal tokens.

    >>> import torch
    >>> token_cosines(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [4.0, 3.0]]))
    tensor([1.0000, 0.9600], dtype=torch.float64)
    """
    one, other = one.double(), other.double()
    norms = (one.square().sum(-1) * other.square().sum(-1)).sqrt()
    return (one * other).sum(-1) / norms


def text_effects(probes: TextProbes, base: TextReading, adapted: TextReading) -> pd.DataFrame:
    """Return one row per probe, text and measure, with the columns `COLUMNS`.

    Measures of answers: `first_probability` and `first_rank` of the answer's first token, `answer_probability` of the
    whole answer, `kl` from the base's next-token distribution to the adapted one. Measures of embeddings: cosine with
    the base's, as a mean over tokens (`cosine`) and of the last token (`last_cosine`), after which an answer would
    begin.
    """
    return pd.DataFrame(list(_rows(probes, base, adapted)), columns=COLUMNS)


def _rows(probes: TextProbes, base: TextReading, adapted: TextReading) -> Iterator[tuple[str, str, str, float, float]]:
    for probe, facts in probes.facts.items():
        for fact in facts:
            before, after = base.answers[fact], adapted.answers[fact]
            if probe in EFFICACY:
                for measure, attribute in (
                    ("first_probability", "first_probability"),
                    ("first_rank", "first_rank"),
                    ("answer_probability", "probability"),
                ):
                    yield probe.value, fact.question, measure, getattr(before, attribute), getattr(after, attribute)
            if probe in LOCALITY:
                yield probe.value, fact.question, "kl", math.nan, kl_divergence(before.next_token, after.next_token)
    for probe, prompts in probes.prompts.items():
        for prompt in prompts:
            cosines = token_cosines(base.embeds[prompt], adapted.embeds[prompt])
            yield probe.value, prompt, "cosine", math.nan, float(cosines.mean())
            yield probe.value, prompt, "last_cosine", math.nan, float(cosines[-1])
