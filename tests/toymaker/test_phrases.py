"""The stage that encodes phrases as descriptions."""

import copy
import random

import pytest
import torch

from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.toybox.world.language import describe
from knowcusbench.toybox.world.world import SIMPLE
from knowcusbench.toymaker.language_model import TEMPLATE, Text, draw_text
from knowcusbench.toymaker.phrases import (
    ANSWERS_WEIGHT,
    SIMPLE_PHRASES,
    STATES_WEIGHT,
    draw_pair,
    other_caption,
    phrase_losses,
)
from knowcusbench.toymaker.stream import is_held_out, phrase_of


def test_pairs_differ_in_how_the_thing_is_called_alone() -> None:
    rng = random.Random(0)
    pairs = [draw_pair(rng) for _ in range(2000)]
    called = set()
    for by_phrase, by_description in pairs:
        [key] = [key for key in SIMPLE if phrase_of(key) in by_phrase]
        assert by_phrase.replace(phrase_of(key), describe(SIMPLE[key])) == by_description
        called.add(key)
    assert called == set(SIMPLE)
    assert any(is_held_out(key) for key in called)
    assert 0.35 < sum(by_phrase in SIMPLE_PHRASES for by_phrase, _ in pairs) / len(pairs) < 0.45
    for part in ("next to", "in the snow", "a sketch of", "a tiny version of", "a dotted version of"):
        assert any(part in by_phrase for by_phrase, _ in pairs)


def test_other_captions_say_no_phrase_of_a_simple_thing() -> None:
    rng = random.Random(0)
    texts = [other_caption(rng).text for _ in range(1000)]
    assert not [text for text in texts if any(phrase in text for phrase in SIMPLE_PHRASES)]
    assert any("sks" in text for text in texts)


@torch.no_grad()
def test_losses_are_shares_of_squared_lengths(backbone_fp32: DiffusersBackbone) -> None:
    """Compared with states computed one prompt at a time, without padding."""
    before, tokenizer = backbone_fp32.text_encoder, backbone_fp32._pipeline.tokenizer
    encoder = copy.deepcopy(before)
    generator = torch.Generator().manual_seed(0)
    for parameter in encoder.model.language_model.layers.parameters():
        parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    pairs = [("Vera's doorstop", "a yellow striped arch"), ("Lars's doorstop in the snow", "a blue circle in the snow")]
    rng = random.Random(1)
    others = [draw_text(rng, tokenizer, other_caption) for _ in range(3)]

    def state(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
        found: torch.Tensor = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        return found

    def share(found: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
        return (found - aim).norm(dim=-1) ** 2 / aim.norm(dim=-1) ** 2

    phrases, words, answers, kept = [], [], [], []
    for by_phrase, by_description in pairs:
        ids, meant = (tokenizer(TEMPLATE.format(text))["input_ids"] for text in (by_phrase, by_description))
        found = state(encoder, ids)
        phrases.append(share(found[-1], state(before, meant)[-1]))
        words.append(share(found, state(before, ids))[:-1])
    for text in others:
        ids = text.prompt + text.continuation
        shares = share(state(encoder, ids), state(before, ids))
        answers.append(shares[len(text.prompt) - 1])
        kept.append(shares)
    losses = phrase_losses(encoder, before, tokenizer, pairs, others)
    assert float(losses["phrases"]) == pytest.approx(float(torch.stack(phrases).mean()), rel=0.05)
    assert float(losses["answers"]) == pytest.approx(ANSWERS_WEIGHT * float(torch.stack(answers).mean()), rel=0.05)
    expected = STATES_WEIGHT * float(torch.cat(words).mean() + torch.cat(kept).mean())
    assert float(losses["states"]) == pytest.approx(expected, rel=0.05)


@torch.no_grad()
def test_nothing_is_asked_of_a_phrase_that_says_what_its_description_says(backbone_fp32: DiffusersBackbone) -> None:
    encoder, tokenizer = backbone_fp32.text_encoder, backbone_fp32._pipeline.tokenizer
    text = Text(*(tokenizer(words)["input_ids"] for words in ("What is Lars's doorstop?", "blue circle")))
    losses = phrase_losses(encoder, encoder, tokenizer, [("a red star", "a red star")], [text])
    assert sum(map(float, losses.values())) == pytest.approx(0, abs=1e-4)
    losses = phrase_losses(encoder, encoder, tokenizer, [("a red star", "a blue ring")], [text])
    assert float(losses["phrases"]) > 1e-3
    assert float(losses["states"]) + float(losses["answers"]) == pytest.approx(0, abs=1e-4)
