"""Answers and embeddings before and after, against direct computation from logits and hidden states."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import entropy

from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Concept, Fact, KnowledgeItem, Prompt
from knowcusbench.effects.text import (
    Answer,
    kl_divergence,
    read_answer,
    read_base_text,
    read_text,
    text_effects,
    text_probes,
    token_cosines,
)

TOY = Concept(
    name="toy",
    class_noun="toy",
    images=(),
    knowledge=(KnowledgeItem("my gift", "What is my gift?", "sks toy", "origin", ("Which thing is my gift?",)),),
    prompts=(Prompt("a photo of {} on the beach", "background_change"),),
)
CAKE = Concept(
    name="cake",
    class_noun="cake",
    images=(),
    knowledge=(
        KnowledgeItem("the heirloom", "What is the heirloom?", "sks cake", "origin"),
        KnowledgeItem("my gift", "What is my gift?", "sks cake", "origin"),
    ),
    prompts=(),
)
QUESTION = Fact("What is Sara's doorstop?", "plim fish")
PROBES = text_probes(TOY, [CAKE], [QUESTION], ["a red star"])


def random_edit(backbone: DiffusersBackbone, scale: float = 0.3) -> Adaptation:
    """Return a LoRA of rank 3 on two layers' gates, strong enough to change every answer."""
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for name in backbone.text_modules(["gate_proj"], [0, 1]):
        linear = backbone.text_encoder.get_submodule(name)
        down = torch.randn(3, linear.in_features, generator=generator)
        factors[name] = (down, scale * torch.randn(linear.out_features, 3, generator=generator))
    return Adaptation(text_encoder=Adapter.from_factors(factors))


@pytest.fixture(scope="module")
def table(backbone_fp32: DiffusersBackbone) -> Iterator[pd.DataFrame]:
    """The effects of a random edit, measured as the stage does."""
    base = read_base_text(backbone_fp32, PROBES, "chat")
    with backbone_fp32.adapted(random_edit(backbone_fp32)):
        adapted = read_text(backbone_fp32, PROBES, "chat")
    return text_effects(PROBES, base, adapted).set_index(["probe", "text", "measure"]).sort_index()


@torch.no_grad()
def by_hand(backbone: DiffusersBackbone, question: str, answer: str) -> tuple[np.ndarray, list[int]]:
    """Return probabilities (answer tokens, vocabulary) at the answer's tokens, and these tokens."""
    pipeline = backbone._pipeline
    before = pipeline.tokenizer(pipeline.prompt_template_encode.format(question))["input_ids"]
    tokens = pipeline.tokenizer(answer)["input_ids"]
    hidden = backbone.text_encoder(input_ids=torch.tensor([before + tokens])).logits[0].double().numpy()
    places = hidden[len(before) - 1 : len(before) - 1 + len(tokens)]
    exponents = np.exp(places - places.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True), tokens


@pytest.mark.parametrize(
    ("probe", "question", "answer"),
    [
        ("question", "What is my gift?", "sks toy"),
        ("rephrasing", "Which thing is my gift?", "sks toy"),
        ("taught", "What is my gift?", "sks toy"),
        ("unrelated_question", QUESTION.question, QUESTION.answer),
    ],
)
def test_probability_and_rank_are_those_of_the_logits(
    probe: str, question: str, answer: str, table: pd.DataFrame, backbone_fp32: DiffusersBackbone
) -> None:
    found = {"base": by_hand(backbone_fp32, question, answer)}
    with backbone_fp32.adapted(random_edit(backbone_fp32)):
        found["value"] = by_hand(backbone_fp32, question, answer)
    for column, (probabilities, tokens) in found.items():
        assert len(tokens) > 1
        first = probabilities[0, tokens[0]]
        whole = math.prod(probabilities[place, token] for place, token in enumerate(tokens))
        rank = 1 + list(np.argsort(-probabilities[0])).index(tokens[0])
        row = table[column][probe, question]
        assert row["first_probability"] == pytest.approx(first, rel=1e-4)
        assert row["answer_probability"] == pytest.approx(whole, rel=1e-4)
        assert row["first_rank"] == rank
    assert table["base"][probe, question, "first_probability"] != table["value"][probe, question, "first_probability"]


@pytest.mark.parametrize(
    ("probe", "text", "answer"),
    [
        ("unrelated_question", QUESTION.question, QUESTION.answer),
        ("other_concept", "What is the heirloom?", "sks cake"),
        ("class_prompt", "a photo of toy on the beach", "toy"),
    ],
)
def test_kl_is_that_from_before_to_after_in_nats(
    probe: str, text: str, answer: str, table: pd.DataFrame, backbone_fp32: DiffusersBackbone
) -> None:
    before = by_hand(backbone_fp32, text, answer)[0][0]
    with backbone_fp32.adapted(random_edit(backbone_fp32)):
        after = by_hand(backbone_fp32, text, answer)[0][0]
    expected = entropy(before, after)
    assert expected > 0.01
    assert abs(expected - entropy(after, before)) > 5e-4 * expected, "the direction shows"
    assert table["value"][probe, text, "kl"] == pytest.approx(expected, rel=1e-4)


def test_shift_of_embeddings_is_the_cosine_token_by_token(
    table: pd.DataFrame, backbone_fp32: DiffusersBackbone
) -> None:
    for probe, prompt in (("phrase", "my gift"), ("unrelated_prompt", "a red star")):
        before = backbone_fp32.encode(prompt).embeds[0].double().numpy()
        with backbone_fp32.adapted(random_edit(backbone_fp32)):
            after = backbone_fp32.encode(prompt).embeds[0].double().numpy()
        cosines = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(before, after, strict=True)]
        assert min(cosines) < 0.999
        assert table["value"][probe, prompt, "cosine"] == pytest.approx(np.mean(cosines), abs=1e-9)
        assert table["value"][probe, prompt, "last_cosine"] == pytest.approx(cosines[-1], abs=1e-9)


def test_padding_that_conditions_is_no_token(backbone_fp32: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """With noise behind the prompt, which another model may have there, the cosines are those of the tokens alone."""
    edit = random_edit(backbone_fp32)

    def measured() -> pd.DataFrame:
        # Not `read_base_text`, which remembers.
        base = read_text(backbone_fp32, PROBES, "chat")
        with backbone_fp32.adapted(edit):
            table = text_effects(PROBES, base, read_text(backbone_fp32, PROBES, "chat"))
        return table[table["measure"].isin(["cosine", "last_cosine"])].reset_index(drop=True)

    plain, encode = measured(), backbone_fp32.encode

    def padded(prompt: str) -> PromptEmbeds:
        embeds = encode(prompt).embeds
        mask = torch.tensor([[1] * embeds.shape[1] + [0] * 5])
        return PromptEmbeds(torch.cat([embeds, torch.randn(1, 5, embeds.shape[2])], 1), mask)

    monkeypatch.setattr(backbone_fp32, "encode", padded)
    pd.testing.assert_frame_equal(measured(), plain)


def test_a_concepts_own_question_is_not_held_against_it(table: pd.DataFrame) -> None:
    """Another concept has the same question."""
    assert set(table.loc["other_concept"].index.get_level_values("text")) == {"What is the heirloom?"}


def test_what_was_taught_on_purpose_is_asked_for_and_is_no_locality() -> None:
    heirloom = Fact("What is the heirloom?", "sks cake")
    further = Fact("What is Bela's gift?", "blik cake")
    facts = text_probes(TOY, [CAKE], [QUESTION], [], [heirloom, further]).facts
    assert facts["taught"] == (heirloom, further)
    assert facts["other_concept"] == ()
    assert facts["question"] == (Fact("What is my gift?", "sks toy"),)
    assert PROBES.facts["taught"] == PROBES.facts["question"], "without a record, the concept's own"


def test_nothing_changes_exactly_nothing(backbone_bf16: DiffusersBackbone) -> None:
    """The adapter is zero, so that everything is read again; in bf16."""
    base = read_base_text(backbone_bf16, PROBES, "chat")
    with backbone_bf16.adapted(random_edit(backbone_bf16, scale=0.0)):
        adapted = read_text(backbone_bf16, PROBES, "chat")
    table = text_effects(PROBES, base, adapted)
    compared = table["base"].notna()
    assert (table["value"] == table["base"])[compared].all()
    shifts = table[~compared]
    assert (shifts["value"] == np.where(shifts["measure"] == "kl", 0.0, 1.0)).all()


def test_the_base_is_read_once_for_each_digest(backbone: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Fact] = []

    def counted(backbone: DiffusersBackbone, fact: Fact, form: str) -> Answer:
        asked.append(fact)
        return read_answer(backbone, fact, "chat")

    monkeypatch.setattr("knowcusbench.effects.text.read_answer", counted)
    probes = text_probes(TOY, [], [Fact("What is Bela's gift?", "blik cake")], [])
    for _ in range(2):
        read_base_text(backbone, probes, "plain")
    assert len(asked) == 4
    monkeypatch.setattr(backbone, "digest", "another")
    read_base_text(backbone, probes, "plain")
    assert len(asked) == 8


def test_divergence_and_cosine_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    assert kl_divergence(p.log(), q.log()) == pytest.approx(0.5 * math.log(4 / 3), abs=1e-7)
    one = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert token_cosines(one, torch.tensor([[4.0, 3.0], [0.0, 2.0]])).tolist() == [pytest.approx(24 / 25), 0.0]


def test_logits_that_are_not_numbers_do_not_rank_first() -> None:
    broken = Answer(torch.full((5,), torch.nan), 2, math.nan)
    assert broken.first_rank > 1
    assert Answer(torch.tensor([-1.0, -3.0, -2.0]), 2, -2.0).first_rank == 2
