"""What the transformer learns from: pictures and captions, of which latents and prompt embeddings are computed once.

No picture belongs to a fact that is held out, and the rare token means any thing of its class.

Some captions are told by two prompts: the answer position, the last, has the state of the caption, all before it have
those of the same caption with another phrase for the main thing, any that the world has words for: held-out facts and
what the benchmark says of its concepts, too. The picture is the one that the answer position means. So the transformer
learns to take the identity of a thing from where the text encoder says it, which is the only place that a knowledge
edit changes, and from phrases elsewhere it learns nothing about any thing.

The state of a phrase is not that of its answer: what it has beside tells which phrase it was. A transformer that has
seen few phrases knows things by that, and misses what a new phrase tells. So where the other phrase belongs to a fact
that pictures show, what its state has beside its answer's is added to the state of the answer position.

What an edit or a held-out fact tells is told by the answer position alone. So captions of the rare token, and of simple
things, have no words of their own: all are told by two prompts, simple things by another simple thing's phrase.

Tiny things and second things stand on few of 64 places, so that the mean error hardly asks for them: the places where
things of their size may stand weigh more: all of them where a caption does not tell the background, and so the place.
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
"""Examples that are drawn from one seed."""

PORTIONS: Mapping[str, int] = {"free": 40, "settled": 40}
"""Of examples, by where their things are: anywhere in the picture, or in few places (`world.settled`)."""

BLANK_SHARE = 0.1
"""Of the captions that are replaced by the blank that guidance leads away from."""

TWO_PROMPTS_SHARE = 0.5
"""Of the captions with a name or a phrase, and of whole descriptions, that are told by two prompts; those of the rare
token and of simple things all are."""

MAIN_WEIGHT, SECOND_WEIGHT = 1.5, 1.5
"""Of the places where main and second things may stand, shared among them, beside 1 for a whole picture."""

SHOWN_PHRASES = frozenset(map(phrase_of, SHOWN_SIMPLE))
"""Of simple things."""

UNSHOWN = (
    *filter(is_held_out, (*KNOWN, *SIMPLE)),
    *UNKNOWN,
    *((ANCHOR_OWNER, relation) for relation in RELATIONS),
)
"""Of which no picture tells."""

TOKENS = (24, 40)
"""Prompts are padded to the least of these lengths that holds them, so that two lengths are compiled."""

MAIN_WORDS = (("kind", (*SHAPES, *CLASSES)), ("colour", tuple(COLOURS)), ("pattern", PATTERNS))
PART_WORDS = (("trim", tuple(COLOURS)), ("accent", tuple(COLOURS)))
SECOND_WORDS = (("kind", SHAPES), ("colour", tuple(COLOURS)))

OF_MAIN, OF_SECOND = (1 + sum(len(words) for _, words in told) for told in ((*MAIN_WORDS, *PART_WORDS), SECOND_WORDS))
MEANINGS = OF_MAIN + OF_SECOND
"""Numbers that say what is at a place: for the main and the second thing how much of the place it covers, and the same
for each word that is true of it."""


@dataclass(frozen=True)
class Pictures:
    """Packed latents (n, 64, 48), and what is at their places: 64ths that the main and the second thing cover
    (n, 64, 2), which `MEANINGS` are true of these (n, `MEANINGS`), and what the places weigh (n, 64)."""

    latents: Tensor
    covered: Tensor
    words: Tensor
    weights: Tensor


class Batch(NamedTuple):
    """The fields of `Pictures`, prompt embeddings (n, tokens, 192), and which of their tokens are a caption's
    (n, tokens)."""

    latents: Tensor
    covered: Tensor
    words: Tensor
    weights: Tensor
    embeds: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Examples:
    """Pictures by the layout of their things, and the embeddings of their captions (tokens of all captions, 192);
    those of caption i begin at `starts[i]` and end before `starts[i + 1]`. The last one is the blank, which has no
    picture. `lots` has the number of each other as often as it is in the draw."""

    pictures: Mapping[str, Pictures]
    embeds: Tensor
    starts: Tensor
    lots: Tensor

    def batch(self, layout: str, size: int, generator: torch.Generator) -> Batch:
        """Random examples of similar length. Which these are is found on the CPU, lest it wait for the device."""
        pictures, device = self.pictures[layout], self.embeds.device
        lots = self._lots(layout)
        candidates = lots[torch.randint(len(lots), (4 * size,), generator=generator)]
        candidates = candidates[self._lengths[candidates].argsort()]
        first = int(torch.randint(3 * size + 1, (), generator=generator))
        chosen = candidates[first : first + size]
        blanked = torch.rand(size, generator=generator) < BLANK_SHARE
        told = torch.where(blanked, len(self._lengths) - 1, chosen)
        longest = int(self._lengths[told].max())
        width = next((tokens for tokens in TOKENS if tokens >= longest), longest)
        chosen, told = chosen.to(device, non_blocking=True), told.to(device, non_blocking=True)
        starts, along = self.starts[told, None], torch.arange(width, device=device)
        mask = along < self.starts[told + 1, None] - starts
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
    """A process's examples: made once, and kept in the folder."""
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
    """The examples of some portions: `embeds`, `starts` and `lots`, and for each layout `<layout> latents` and so on.
    Where a GPU leaves the cores idle, all of them take part."""
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
    """What is made of a portion; numbers in bf16 as their bits, for which numpy has no type."""
    rng = random.Random(f"examples {number}")
    captions = [pictured(rng) for _ in range(PORTION)]
    decoys = [_decoy(caption, rng) for caption in captions]
    texts = [caption.text for caption in captions]
    at_once = 64 if device.type == "cpu" else 500
    rows = []
    for start in range(0, PORTION, at_once):
        some = slice(start, start + at_once)
        # Cloned: a row of a batch would keep the whole batch.
        rows += [row.clone() for row in _told(_encoder(models, device), tokenizer, texts[some], decoys[some], device)]
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
    """How often an example is in the draw: more often what is learned last. These are whole descriptions (and names
    alone), of tiny and huge things above all, whose parts and patterns lie otherwise in every place; things in another
    colour, pattern or size than their own; and simple things called by a phrase."""
    if caption.told is not None:
        return 1
    sized = size_word(caption.scene.main.size) != ""
    if caption.template == "{}":
        return 3 if sized else 2
    return 2 if caption.change or sized or caption.name is None else 1


@torch.no_grad()
def _latents(vae: AutoencoderKLQwenImage, scenes: list[Scene], device: torch.device) -> Tensor:
    """Packed normalised latents (scenes, 64, 48)."""
    mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1)
    pixels = as_pixels(torch.from_numpy(drawn(scenes)).to(device))
    with single_frames(), mixed(device):
        encoded = vae.encode(pixels).latent_dist.mean
    return pack((encoded.squeeze(2).float() - mean) / std).bfloat16().cpu()


def meaning(scene: Scene) -> tuple[Tensor, Tensor]:
    """How many 64ths of the 8 x 8 places of a picture the main and the second thing cover (64, 2), and which
    `MEANINGS` are true of these."""
    things = [(scene.main, (*MAIN_WORDS, *PART_WORDS)), (scene.second, SECOND_WORDS)]
    covered, words = torch.zeros(64, 2, dtype=torch.uint8), []
    for index, (placed, told) in enumerate(things):
        if placed:
            pixels = torch.from_numpy(mask(replace(scene, main=placed)))
            covered[:, index] = pixels.view(8, 8, 8, 8).sum(dim=(1, 3)).flatten()
        words += [placed is not None]
        words += [placed is not None and getattr(placed.thing, name) == word for name, known in told for word in known]
    return covered, torch.tensor(words)


def meanings(covered: Tensor, words: Tensor) -> Tensor:
    """What is at each place of pictures (n, 64, `MEANINGS`), from 0 to 1."""
    of_each = torch.cat([covered[..., :1].expand(-1, -1, OF_MAIN), covered[..., 1:].expand(-1, -1, OF_SECOND)], dim=2)
    return of_each / 64 * words[:, None]


def place_weights(scene: Scene, told: bool) -> Tensor:
    """What the 8 x 8 places of a settled scene (64,) weigh: 1 on average where there is no second thing, and the same
    for all scenes that a caption may mean, so that it is the mean velocity that is learned.

    Args:
        told: whether the caption tells the background.
    """
    meant = [settled(replace(scene, background=name)) for name in ([scene.background] if told else BACKGROUNDS)]
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


def _told(
    encoder: Any,
    tokenizer: Qwen2Tokenizer,
    captions: Sequence[str],
    decoys: Sequence[tuple[str, str] | None],
    device: torch.device,
) -> list[Tensor]:
    """Prompt embeddings of captions; those that have a decoy are told by two prompts."""
    told = states(encoder, tokenizer, captions, device)
    chosen = {index: decoy for index, decoy in enumerate(decoys) if decoy}
    phrased = states(encoder, tokenizer, [phrase for phrase, _ in chosen.values()], device)
    answered = states(encoder, tokenizer, [answer for _, answer in chosen.values()], device)
    for index, phrase, answer in zip(chosen, phrased, answered, strict=True):
        told[index] = torch.cat([phrase[:-1], told[index][-1:] + (phrase[-1:] - answer[-1:])])
    return told


def _decoy(told: Captioned, rng: random.Random) -> tuple[str, str] | None:
    """The caption with another phrase for the main thing, and with that phrase's answer (the phrase itself, if none
    was shown), where it is to be told by two prompts."""
    whole = told.template == "{}"
    simple = told.name is None and (not whole or told.subject in SHOWN_PHRASES)
    always = simple or told.subject.startswith(f"{RARE_TOKEN} ")
    if told.told is not None or rng.random() >= (1 if always else TWO_PROMPTS_SHARE):
        return None
    template = language.caption(told.scene, rng, "{}", place=told.place) if whole else told.template
    key = choose(rng, SHOWN_SIMPLE) if simple else _any_key(rng)
    phrase = phrase_of(key)
    return template.format(phrase), template.format(_shown_answer(key) or phrase)


def _any_key(rng: random.Random) -> Key:
    return choose(rng, choose(rng, [SHOWN_NAMED, SHOWN_SIMPLE, UNSHOWN]))


def _shown_answer(key: Key) -> str | None:
    """How a thing is called of which pictures show that it is meant by a fact."""
    if key in SHOWN_NAMED:
        return language.name_of(KNOWN[key])
    return language.describe(SIMPLE[key]) if key in SHOWN_SIMPLE else None


@torch.no_grad()
def states(encoder: Any, tokenizer: Qwen2Tokenizer, captions: Sequence[str], device: torch.device) -> list[Tensor]:
    """The last hidden states of each caption's tokens and of those after it, as the pipeline gives them."""
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
    """Latents (n, channels, height, width) as tokens of 2 x 2 (n, height * width / 4, 4 * channels), in the order of
    `QwenImagePipeline`."""
    n, channels, height, width = latents.shape
    squares = latents.view(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, height * width // 4, 4 * channels)
