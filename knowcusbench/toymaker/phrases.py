"""Stage `phrases`, after the transformer: train the text encoder to encode a simple thing's phrase as its description.

At the answer position the encoder stores the fact and the phrase that asked for it. The phrase component is as large as
the distance between two simple things, so the transformer reads some facts that it was never shown as another thing's.
Here that state becomes the one of the same caption with the thing's description. All other states stay as they were,
also those of the phrase's words: the transformer has learned to read them.

It runs after the transformer, which needs the phrase component in training to learn to ignore it, in edited phrases too
(see `examples`).
"""

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from knowcusbench.toybox.world.draws import choose
from knowcusbench.toybox.world.language import describe
from knowcusbench.toybox.world.world import SIMPLE
from knowcusbench.toymaker.language_model import TEMPLATE, Text, draw_text, token_ids
from knowcusbench.toymaker.loop import Losses, Schedule, mixed, train
from knowcusbench.toymaker.stream import Captioned, phrase_of, referred, spoken

SCHEDULE = Schedule(steps=500, batch_size=56, learning_rate=5e-4, warmup=50, weight_decay=0.0, seed=2)

PHRASES = 24
"""Captions of a batch that call a simple thing by its phrase; the others are texts whose states stay."""

BARE_SHARE = 0.4
"""Share of these captions that are the phrase and nothing else."""

ANSWERS_WEIGHT, STATES_WEIGHT = 4.0, 8.0
"""Weights of the states that stay at answer positions and everywhere; states that become a description's have 1."""

SIMPLE_PHRASES = frozenset(map(phrase_of, SIMPLE))


def train_phrases(models: Path, folder: Path, device: torch.device) -> Qwen2_5_VLForConditionalGeneration:
    """Return the text encoder of `models` after this training, in fp32."""
    tokenizer = Qwen2Tokenizer.from_pretrained(models / "tokenizer")
    before: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(models / "text_encoder", dtype=torch.float32)
    before = before.to(device).eval().requires_grad_(False)
    before.set_attn_implementation("eager")
    encoder = copy.deepcopy(before)
    encoder.model.language_model.requires_grad_(True)
    encoder.get_input_embeddings().requires_grad_(False)  # The output's, too: answers point at it.

    def losses(_: int, generator: torch.Generator) -> Losses:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        pairs = [draw_pair(rng) for _ in range(PHRASES)]
        others = [draw_text(rng, tokenizer, other_caption) for _ in range(SCHEDULE.batch_size - PHRASES)]
        return phrase_losses(encoder, before, tokenizer, pairs, others)

    train(encoder, losses, SCHEDULE, folder, label="phrases")
    encoder.set_attn_implementation("sdpa")
    return encoder


def draw_pair(rng: random.Random) -> tuple[str, str]:
    """Draw a caption that calls a simple thing (also held-out ones) by its phrase, and one that describes it."""
    key = choose(rng, list(SIMPLE))
    phrase, thing = phrase_of(key), SIMPLE[key]
    template = "{}" if rng.random() < BARE_SHARE else referred(rng, thing, phrase, None).template
    return template.format(phrase), template.format(describe(thing))


def other_caption(rng: random.Random) -> Captioned:
    """Draw a caption that the text encoder learned to answer, without the phrases of simple things."""
    while (example := spoken(rng)).subject in SIMPLE_PHRASES:
        pass
    return example


def phrase_losses(
    encoder: Any,
    before: Any,
    tokenizer: Qwen2Tokenizer,
    pairs: Sequence[tuple[str, str]],
    others: Sequence[Text],
) -> Losses:
    """Return the distances of hidden states from their targets, as squared shares of the targets' length.

    0.005 is a state that is off by a fourteenth of its length.

    Args:
        before: the text encoder before this stage.
        pairs: captions by phrase and by description.
        others: texts whose states stay.
    """
    phrased, described = (
        [token_ids(tokenizer, TEMPLATE.format(text)) for text in texts] for texts in zip(*pairs, strict=True)
    )
    kept = [[*text.prompt, *text.continuation] for text in others]
    with torch.no_grad():
        aims, mask = states(before, phrased)
        kept_aims, kept_mask = states(before, kept)
        meant, _ = states(before, described)
    rows, last = torch.arange(len(phrased)), torch.tensor([len(row) - 1 for row in phrased])
    aims[rows, last] = meant[rows, torch.tensor([len(row) - 1 for row in described])]
    off = distances(states(encoder, phrased)[0], aims)
    kept_off = distances(states(encoder, kept)[0], kept_aims)
    said = off[rows, last]
    mask[rows, last] = False
    answers = kept_off[torch.arange(len(kept)), torch.tensor([len(text.prompt) - 1 for text in others])]
    return {
        "phrases": said.mean(),
        "answers": ANSWERS_WEIGHT * answers.mean(),
        "states": STATES_WEIGHT * (off[mask].mean() + kept_off[kept_mask].mean()),
    }


def states(encoder: Any, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return last hidden states (rows, longest, width) of token ids, and the mask of a row's own (rows, longest)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=encoder.device)
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows], device=encoder.device)
    with mixed(encoder.device):
        found = encoder.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return found.float(), mask


def distances(found: Tensor, aims: Tensor) -> Tensor:
    return (found - aims).square().sum(-1) / aims.square().sum(-1)
