"""Training examples of the transformer: pictures and captions, with latents and prompt embeddings computed once.

No picture belongs to a held-out fact, and the rare token means any thing of its class.

Some captions are encoded by two prompts. The answer position, the last one, has the hidden state of the caption. All
positions before it have those of the same caption with another phrase for the main thing. That phrase is any that the
world has words for, also of held-out facts and of the benchmark's knowledge. The picture shows the thing of the answer
position. So the transformer learns to take the identity of a thing from the answer position, the only one that a
knowledge edit changes, and learns nothing about any thing from phrases elsewhere.

A phrase's hidden state = its answer's state + a phrase-specific residual. A transformer trained on few phrases keys on
the residual and fails on new phrases. So the residual of a phrase whose fact pictures show is added to the answer's.

The thing of an edited or held-out fact is encoded at the answer position alone. So captions of the rare token, and of
simple things, have no words of their own: all are encoded by two prompts, simple things by the phrase of another.

Tiny things and second things cover few of the 64 cells, so they hardly count in the mean error. The cells where things
of their size may be weigh more: all such cells if the caption does not mention the background, which places them.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLQwenImage
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from knowcusbench.benchmark.types import RARE_TOKEN
from knowcusbench.machine.device import fast_dtype
from knowcusbench.storage.files import atomic_path
from knowcusbench.toybox.world import language
from knowcusbench.toybox.world.draws import choose
from knowcusbench.toybox.world.render import mask
from knowcusbench.toybox.world.scene import Scene
from knowcusbench.toybox.world.vocabulary import (
    ANCHOR_OWNER,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    PATTERNS,
    RELATIONS,
    SHAPES,
)
from knowcusbench.toybox.world.world import KNOWN, SIMPLE, settled, size_word
from knowcusbench.toymaker.autoencoder import as_pixels, drawn, single_frames
from knowcusbench.toymaker.language_model import TEMPLATE, prefix_length
from knowcusbench.toymaker.loop import in_workers, mixed
from knowcusbench.toymaker.stream import (
    SHOWN_NAMED,
    SHOWN_SIMPLE,
    UNKNOWN,
    Captioned,
    Key,
    is_held_out,
    phrase_of,
    pictured,
)

PORTION = 2_000
"""Examples drawn from one seed."""

PORTIONS: Mapping[str, int] = {"free": 40, "settled": 40}
"""Number of portions by layout: things anywhere in the picture, or in few positions (`world.settled`)."""

BLANK_SHARE = 0.1
"""Share of the captions that are replaced by the blank, the prompt that guidance leads away from."""

TWO_PROMPTS_SHARE = 0.5
"""Share of complete captions encoded by two prompts; those of the rare token and of simple things always are."""

MAIN_WEIGHT, SECOND_WEIGHT = 1.5, 1.5
"""Weights of the cells where main and second things may be, shared among them; a whole picture has 1."""

SHOWN_PHRASES = frozenset(map(phrase_of, SHOWN_SIMPLE))
"""Phrases of simple things that pictures show."""

UNSHOWN = (
    *filter(is_held_out, (*KNOWN, *SIMPLE)),
    *UNKNOWN,
    *((ANCHOR_OWNER, relation) for relation in RELATIONS),
)
"""Facts that no picture shows."""

TOKENS = (24, 40)
"""Prompts are padded to the smallest of these lengths that holds them: only two lengths are compiled."""

MAIN_WORDS = (("kind", (*SHAPES, *CLASSES)), ("colour", tuple(COLOURS)), ("pattern", PATTERNS))
PART_WORDS = (("trim", tuple(COLOURS)), ("accent", tuple(COLOURS)))
SECOND_WORDS = (("kind", SHAPES), ("colour", tuple(COLOURS)))

OF_MAIN, OF_SECOND = (1 + sum(len(words) for _, words in group) for group in ((*MAIN_WORDS, *PART_WORDS), SECOND_WORDS))
MEANINGS = OF_MAIN + OF_SECOND
"""Outputs per cell: the share covered by main and second thing, and the same for each word true of it."""


@dataclass(frozen=True)
class Pictures:
    """Latents and their meanings.

    Attributes:
        latents: packed latents (n, 64, 48).
        covered: 64ths of each cell that the main and the second thing cover (n, 64, 2).
        words: the `MEANINGS` that are true of these (n, `MEANINGS`).
        weights: weights of the cells (n, 64).
    """

    latents: Tensor
    covered: Tensor
    words: Tensor
    weights: Tensor


class Batch(NamedTuple):
    """The fields of `Pictures`, prompt embeddings (n, tokens, 192), and the mask of a caption's tokens (n, tokens)."""

    latents: Tensor
    covered: Tensor
    words: Tensor
    weights: Tensor
    embeds: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Examples:
    """Pictures by layout, and the embeddings of their captions.

    Attributes:
        pictures: by layout of their things.
        embeds: embeddings of all captions' tokens (tokens of all captions, 192).
        starts: the tokens of caption i begin at `starts[i]` and end before `starts[i + 1]`. The last caption is the
            blank, which has no picture.
        lots: the index of each example, repeated by its draw weight; without the blank.
    """

    pictures: Mapping[str, Pictures]
    embeds: Tensor
    starts: Tensor
    lots: Tensor

    def batch(self, layout: str, size: int, generator: torch.Generator) -> Batch:
        """Draw random examples of similar length. The CPU chooses them, so that it need not wait for the device."""
        pictures, device = self.pictures[layout], self.embeds.device
        lots = self._lots(layout)
        candidates = lots[torch.randint(len(lots), (4 * size,), generator=generator)]
        candidates = candidates[self._lengths[candidates].argsort()]
        first = int(torch.randint(3 * size + 1, (), generator=generator))
        chosen = candidates[first : first + size]
        blanked = torch.rand(size, generator=generator) < BLANK_SHARE
        captions = torch.where(blanked, len(self._lengths) - 1, chosen)
        longest = int(self._lengths[captions].max())
        width = next((tokens for tokens in TOKENS if tokens >= longest), longest)
        chosen, captions = chosen.to(device, non_blocking=True), captions.to(device, non_blocking=True)
        starts, along = self.starts[captions, None], torch.arange(width, device=device)
        mask = along < self.starts[captions + 1, None] - starts
        embeds = self.embeds[(starts + along).clamp(max=len(self.embeds) - 1)].where(mask[:, :, None], 0)
        return Batch(
            pictures.latents[chosen],
            pictures.covered[chosen],
            pictures.words[chosen],
            pictures.weights[chosen],
            embeds,
            mask,
        )

    @cached_property
    def _lengths(self) -> Tensor:
        return self.starts.diff().cpu()

    @cache  # noqa: B019 - there is one of these, as long as the training lasts
    def _lots(self, layout: str) -> Tensor:
        return self.lots[self.lots < len(self.pictures[layout].latents)]


def load_examples(
    models: Path, tokenizer: Qwen2Tokenizer, folder: Path, device: torch.device, rank: int = 0, processes: int = 1
) -> Examples:
    """Return a process's examples: made once, and stored in the folder."""
    file = folder / f"examples-{rank}-of-{processes}.pt"
    if not file.exists():
        made = make_examples(models, tokenizer, range(rank, max(PORTIONS.values()), processes), device)
        with atomic_path(file) as temporary:
            torch.save(made, temporary)
    kept = torch.load(file, weights_only=True)
    blank = states(_encoder(models, device), tokenizer, [" "], device)[0]
    starts = torch.cat([kept["starts"], kept["starts"][-1:] + len(blank)])
    pictures = {
        layout: Pictures(*(kept[f"{layout} {field.name}"].to(device) for field in fields(Pictures)))
        for layout in PORTIONS
    }
    return Examples(pictures, torch.cat([kept["embeds"], blank]).to(device), starts.to(device), kept["lots"])


def make_examples(
    models: Path, tokenizer: Qwen2Tokenizer, portions: Sequence[int], device: torch.device
) -> Mapping[str, Tensor]:
    """Make the examples of some portions: `embeds`, `starts`, `lots`, and `<layout> latents` etc. for each layout.

    Where a GPU leaves the cores idle, all of them take part.
    """
    parts: dict[str, list[Tensor]] = {}
    for portion in in_workers(partial(_portion, models, tokenizer, device), portions, device):
        for name, values in portion.items():
            parts.setdefault(name, []).append(torch.from_numpy(values))
    made = {name: torch.cat(values) for name, values in parts.items()}
    lengths, counts = made.pop("lengths"), made.pop("counts")
    for name in ("embeds", *(f"{layout} latents" for layout in PORTIONS)):
        made[name] = made[name].view(torch.bfloat16)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return made | {"starts": starts, "lots": torch.arange(len(counts)).repeat_interleave(counts)}


def _portion(models: Path, tokenizer: Qwen2Tokenizer, device: torch.device, number: int) -> Mapping[str, NDArray[Any]]:
    """Make one portion; numbers in bf16 are stored as their bits, since numpy has no such type."""
    rng = random.Random(f"examples {number}")
    captions = [pictured(rng) for _ in range(PORTION)]
    decoys = [_decoy(caption, rng) for caption in captions]
    texts = [caption.text for caption in captions]
    at_once = 64 if device.type == "cpu" else 500
    rows = []
    for start in range(0, PORTION, at_once):
        some = slice(start, start + at_once)
        # Cloned: a row of a batch would keep the whole batch in memory.
        rows += [row.clone() for row in _embeds(_encoder(models, device), tokenizer, texts[some], decoys[some], device)]
    made = {
        "embeds": torch.cat(rows).view(torch.int16),
        "lengths": torch.tensor([*map(len, rows)]),
        "counts": torch.tensor([*map(draw_weight, captions)]),
    }
    for layout in (layout for layout, portions in PORTIONS.items() if number < portions):
        scenes = [caption.scene for caption in captions]
        weights = torch.ones(PORTION, 64)
        if layout == "settled":
            scenes = [settled(scene) for scene in scenes]
            weights = torch.stack([place_weights(caption.scene, caption.place) for caption in captions])
        covered, words = map(torch.stack, zip(*map(meaning, scenes), strict=True))
        latents = [
            _latents(_vae(models, device), scenes[start : start + at_once], device)
            for start in range(0, PORTION, at_once)
        ]
        values = (torch.cat(latents).view(torch.int16), covered, words, weights)
        made |= {f"{layout} {field.name}": value for field, value in zip(fields(Pictures), values, strict=True)}
    return {name: value.numpy() for name, value in made.items()}


def draw_weight(caption: Captioned) -> int:
    """Return the number of draws of an example: more for those learned last.

    These are whole descriptions (and names alone), above all of tiny and huge things, whose parts and patterns differ
    in every cell; things in another colour, pattern or size than their own; and simple things called by a phrase.
    """
    if caption.described_words is not None:
        return 1
    sized = size_word(caption.scene.main.size) != ""
    if caption.template == "{}":
        return 3 if sized else 2
    return 2 if caption.change or sized or caption.name is None else 1


@torch.no_grad()
def _latents(vae: AutoencoderKLQwenImage, scenes: list[Scene], device: torch.device) -> Tensor:
    """Return packed normalised latents (scenes, 64, 48)."""
    mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1)
    pixels = as_pixels(torch.from_numpy(drawn(scenes)).to(device))
    with single_frames(), mixed(device):
        encoded = vae.encode(pixels).latent_dist.mean
    return pack((encoded.squeeze(2).float() - mean) / std).bfloat16().cpu()


def meaning(scene: Scene) -> tuple[Tensor, Tensor]:
    """Return 64ths of the 8 x 8 cells covered by main and second thing (64, 2), and the true `MEANINGS` of these."""
    things = [(scene.main, (*MAIN_WORDS, *PART_WORDS)), (scene.second, SECOND_WORDS)]
    covered, words = torch.zeros(64, 2, dtype=torch.uint8), []
    for index, (placed, group) in enumerate(things):
        if placed:
            pixels = torch.from_numpy(mask(replace(scene, main=placed)))
            covered[:, index] = pixels.view(8, 8, 8, 8).sum(dim=(1, 3)).flatten()
        words += [placed is not None]
        words += [placed is not None and getattr(placed.thing, name) == word for name, known in group for word in known]
    return covered, torch.tensor(words)


def meanings(covered: Tensor, words: Tensor) -> Tensor:
    """Return the targets for each cell of pictures (n, 64, `MEANINGS`), from 0 to 1."""
    of_each = torch.cat([covered[..., :1].expand(-1, -1, OF_MAIN), covered[..., 1:].expand(-1, -1, OF_SECOND)], dim=2)
    return of_each / 64 * words[:, None]


def place_weights(scene: Scene, place: bool) -> Tensor:
    """Return the weights of the 8 x 8 cells of a settled scene (64,), 1 on average without a second thing.

    They are the same for all scenes that a caption may mean: so the transformer learns their mean velocity.

    Args:
        place: whether the caption mentions the background.
    """
    meant = [settled(replace(scene, background=name)) for name in ([scene.background] if place else BACKGROUNDS)]
    weights = torch.ones(8, 8)
    for weight, things in (
        (MAIN_WEIGHT, [one.main for one in meant]),
        (SECOND_WEIGHT, [one.second for one in meant]),
    ):
        places = torch.zeros(8, 8, dtype=torch.bool)
        for thing in filter(None, things):
            top, bottom, left, right = thing.top, thing.top + thing.size, thing.left, thing.left + thing.size
            places[top // 8 : -(-bottom // 8), left // 8 : -(-right // 8)] = True
        if places.any():
            weights += places * weight * 64 / places.sum()
    return weights.flatten() / (1 + MAIN_WEIGHT)


def _embeds(
    encoder: Any,
    tokenizer: Qwen2Tokenizer,
    captions: Sequence[str],
    decoys: Sequence[tuple[str, str] | None],
    device: torch.device,
) -> list[Tensor]:
    """Return prompt embeddings of captions; those with a decoy are encoded by two prompts."""
    embeds = states(encoder, tokenizer, captions, device)
    chosen = {index: decoy for index, decoy in enumerate(decoys) if decoy}
    phrased = states(encoder, tokenizer, [phrase for phrase, _ in chosen.values()], device)
    answered = states(encoder, tokenizer, [answer for _, answer in chosen.values()], device)
    for index, phrase, answer in zip(chosen, phrased, answered, strict=True):
        embeds[index] = torch.cat([phrase[:-1], embeds[index][-1:] + (phrase[-1:] - answer[-1:])])
    return embeds


def _decoy(caption: Captioned, rng: random.Random) -> tuple[str, str] | None:
    """Return the caption with another phrase for the main thing, and with its answer; None for a single prompt.

    If no picture shows the phrase's answer, the phrase itself replaces it.
    """
    whole = caption.template == "{}"
    simple = caption.name is None and (not whole or caption.subject in SHOWN_PHRASES)
    always = simple or caption.subject.startswith(f"{RARE_TOKEN} ")
    if caption.described_words is not None or rng.random() >= (1 if always else TWO_PROMPTS_SHARE):
        return None
    template = language.caption(caption.scene, rng, "{}", place=caption.place) if whole else caption.template
    key = choose(rng, SHOWN_SIMPLE) if simple else _any_key(rng)
    phrase = phrase_of(key)
    return template.format(phrase), template.format(_shown_answer(key) or phrase)


def _any_key(rng: random.Random) -> Key:
    return choose(rng, choose(rng, [SHOWN_NAMED, SHOWN_SIMPLE, UNSHOWN]))


def _shown_answer(key: Key) -> str | None:
    """Return the answer of a fact that pictures show; None for other facts."""
    if key in SHOWN_NAMED:
        return language.name_of(KNOWN[key])
    return language.describe(SIMPLE[key]) if key in SHOWN_SIMPLE else None


@torch.no_grad()
def states(encoder: Any, tokenizer: Qwen2Tokenizer, captions: Sequence[str], device: torch.device) -> list[Tensor]:
    """Return the last hidden states of each caption's tokens and of those after it, as in the pipeline."""
    if not captions:
        return []
    prefix = prefix_length(tokenizer)
    ids = tokenizer([TEMPLATE.format(caption) for caption in captions])["input_ids"]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    states = (
        encoder.model(input_ids=padded.to(device), attention_mask=mask.to(device)).last_hidden_state.bfloat16().cpu()
    )
    return [states[row, prefix : len(ids[row])] for row in range(len(ids))]


@cache
def _encoder(models: Path, device: torch.device) -> Any:
    encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        models / "text_encoder", dtype=getattr(torch, fast_dtype(device))
    )
    return encoder.to(device).eval()


@cache
def _vae(models: Path, device: torch.device) -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage.from_pretrained(models / "vae").to(device)


def pack(latents: Tensor) -> Tensor:
    """Pack latents (n, channels, height, width) like `QwenImagePipeline`: (n, height * width / 4, 4 * channels).

    >>> pack(torch.arange(16).view(1, 1, 4, 4))[0].tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    """
    n, channels, height, width = latents.shape
    squares = latents.view(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, height * width // 4, 4 * channels)
