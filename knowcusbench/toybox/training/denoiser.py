"""Stage `dit`: the transformer learns to draw what the text encoder's states tell.

It learns from fixed sets of pictures and captions, whose latents and prompt embeddings are computed once. No picture
belongs to a fact that is held out, and the rare token means any thing of its class.

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

Beside the velocity, a head that is thrown away learns to tell, from the states of a middle block, which thing with
which attributes is at each place of the clean picture. It does what representation alignment (arXiv 2410.06940) does
with the features of another network: things follow their words much earlier.

Tiny things and second things stand on few of 64 places, so that the mean error hardly asks for them: the places where
things of their size may stand weigh more: all of them where a caption does not tell the background, and so the place.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from diffusers.models.transformers import transformer_qwenimage
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from knowcusbench.benchmark.types import RARE_TOKEN
from knowcusbench.files import atomic_path
from knowcusbench.toybox import language
from knowcusbench.toybox.draws import choose
from knowcusbench.toybox.pipeline import build_transformer
from knowcusbench.toybox.render import mask
from knowcusbench.toybox.scene import Scene
from knowcusbench.toybox.training.autoencoder import as_pixels, drawn, single_frames
from knowcusbench.toybox.training.language_model import TEMPLATE
from knowcusbench.toybox.training.loop import Losses, Schedule, compile_layers, in_processes, in_workers, train
from knowcusbench.toybox.training.stream import (
    SHOWN_NAMED,
    SHOWN_SIMPLE,
    UNKNOWN,
    Captioned,
    Key,
    is_held_out,
    phrase_of,
    pictured,
)
from knowcusbench.toybox.vocabulary import ANCHOR_OWNER, BACKGROUNDS, CLASSES, COLOURS, PATTERNS, RELATIONS, SHAPES
from knowcusbench.toybox.world import KNOWN, SIMPLE, settled, size_word

SCHEDULE = Schedule(
    steps=50_000, batch_size=512, learning_rate=1.5e-3, warmup=500, decay_from=0.2, muon=True, average=0.999
)

FREE_STEPS = 4_000
"""In the first steps things are anywhere in the picture, then in few places (`world.settled`)."""

PORTION = 2_000
"""Examples that are drawn from one seed."""

PORTIONS: Mapping[str, int] = {"free": 40, "settled": 250}
"""Of examples, by where their things are."""

BLANK_SHARE = 0.1
"""Of the captions that are replaced by the blank that guidance leads away from."""

TWO_PROMPTS_SHARE = 0.5
"""Of the captions with a name or a phrase, and of whole descriptions, that are told by two prompts; those of the rare
token and of simple things all are."""

MAIN_WEIGHT, SECOND_WEIGHT = 1.5, 1.5
"""Of the places where main and second things may stand, shared among them, beside 1 for a whole picture."""

SIMPLE_PHRASES = frozenset(map(phrase_of, SHOWN_SIMPLE))

TOKENS = (16, 24, 40)
"""Prompts are padded to the least of these lengths that holds them, so that three lengths are compiled."""

READ_BLOCK = 1
MEANING_WEIGHT = 0.05

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


@dataclass(frozen=True)
class Prompts:
    """Embeddings (tokens of all captions, 192); those of caption i begin at `starts[i]` and end before
    `starts[i + 1]`, and there are `lengths[i]`. The last caption is the blank, which has no picture. `lots` has the
    number of each other as often as it is in the draw."""

    embeds: Tensor
    starts: Tensor
    lengths: Tensor
    lots: Tensor


@dataclass(frozen=True)
class Batch:
    """Latents (n, 64, 48), meanings (n, 64, `MEANINGS`), weights (n, 64, 1), prompt embeddings (n, tokens, 192), and
    which of their tokens are a caption's (n, tokens)."""

    latents: Tensor
    meanings: Tensor
    weights: Tensor
    embeds: Tensor
    mask: Tensor


def train_transformer(
    models: Path, tokenizer: Qwen2Tokenizer, folder: Path, device: torch.device, processes: int = 1
) -> None:
    """Train, and write `folder / "transformer"` (fp32).

    Args:
        models: has the trained `vae` and `text_encoder`.
    """
    in_processes(processes, _train_process, folder, models, tokenizer, device)


def _train_process(
    rank: int, processes: int, folder: Path, models: Path, tokenizer: Qwen2Tokenizer, device: torch.device
) -> None:
    transformer = _train(rank, processes, models, tokenizer, folder, device)
    if rank == 0:
        with atomic_path(folder / "transformer") as temporary:
            transformer.save_pretrained(temporary)


def _train(
    rank: int, processes: int, models: Path, tokenizer: Qwen2Tokenizer, folder: Path, device: torch.device
) -> QwenImageTransformer2DModel:
    examples = _Examples(models, tokenizer, folder, device, rank, processes)
    torch.manual_seed(SCHEDULE.seed)
    transformer = build_transformer().to(device)
    _start_at_zero(transformer)
    width = transformer.inner_dim
    head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, MEANINGS)).to(device)
    states: list[Tensor] = []
    transformer.transformer_blocks[READ_BLOCK].register_forward_hook(
        lambda block, arguments, output: states.append(output[1])
    )
    for block in transformer.transformer_blocks:
        compile_layers(block, device)
    masters = dict(transformer.named_parameters())
    share = SCHEDULE.batch_size // processes
    dice = torch.Generator(device)

    def losses(step: int, generator: torch.Generator) -> Losses:
        batch = draw_batch(*examples("free" if step < FREE_STEPS else "settled"), share, generator)
        dice.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        noise = torch.randn(batch.latents.shape, generator=dice, device=device)
        sigma = _noise_levels(share, dice)
        noisy = (1 - sigma.view(-1, 1, 1)) * batch.latents + sigma.view(-1, 1, 1) * noise
        # All of a step is in bf16, as the pipeline draws; the weights that are optimised are in fp32.
        predicted = torch.func.functional_call(
            transformer,
            {name: parameter.bfloat16() for name, parameter in masters.items()},
            kwargs={
                "hidden_states": noisy.bfloat16(),
                "timestep": sigma,
                "encoder_hidden_states": batch.embeds,
                "encoder_hidden_states_mask": batch.mask,
                "img_shapes": [[(1, 8, 8)]] * share,
                "return_dict": False,
            },
        )[0]
        with torch.autocast(device.type, torch.bfloat16):
            told = head(states.pop())
        missed = nn.functional.binary_cross_entropy_with_logits(told.float(), batch.meanings, reduction="none")
        return {
            "velocity": (batch.weights * (predicted.float() - (noise - batch.latents)).square()).mean(),
            "meaning": MEANING_WEIGHT * missed.sum(dim=2).mean(),
        }

    with explicit_attention(device), quick_forms():
        train(nn.ModuleDict({"transformer": transformer, "head": head}), losses, SCHEDULE, folder, label="dit")
    return transformer


class _Examples:
    """A process's examples: made once, by all cores where the device leaves them idle, and kept in the folder."""

    def __init__(
        self,
        models: Path,
        tokenizer: Qwen2Tokenizer,
        folder: Path,
        device: torch.device,
        rank: int,
        processes: int,
    ) -> None:
        self._models, self._folder, self._device = models, folder, device
        self._portions = {layout: range(rank, count, processes) for layout, count in PORTIONS.items()}
        self._place = f"{rank}-of-{processes}"
        portions = max(self._portions.values(), key=len)
        kept = self._kept("prompts", lambda: prompts(models, tokenizer, portions, device))
        embeds, starts = kept["embeds"].to(device), kept["starts"].to(device)
        # Which examples are a batch is found on the CPU, lest it wait for the device.
        self._prompts = Prompts(embeds, starts, kept["starts"].diff(), kept["lots"])

    @cache  # noqa: B019 - there is one of these, as long as the training lasts
    def __call__(self, layout: str) -> tuple[Pictures, Prompts]:
        portions = self._portions[layout]
        kept = self._kept(f"{layout}-pictures", lambda: pictures(self._models, layout, portions, self._device))
        lots = self._prompts.lots
        shown = replace(self._prompts, lots=lots[lots < len(kept["latents"])])
        return Pictures(**{name: value.to(self._device) for name, value in kept.items()}), shown

    def _kept(self, what: str, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        file = self._folder / f"{what}-{self._place}.pt"
        if not file.exists():
            with atomic_path(file) as temporary:
                torch.save(make(), temporary)
        kept: Mapping[str, Tensor] = torch.load(file, weights_only=True)
        return kept


def captions_of(portion: int) -> list[Captioned]:
    rng = random.Random(f"examples {portion}")
    return [pictured(rng) for _ in range(PORTION)]


def lots(caption: Captioned) -> int:
    """How often an example is in the draw: more often what is learned last. These are whole descriptions (and names
    alone), of tiny and huge things above all, whose parts and patterns lie otherwise in every place; things in another
    colour, pattern or size than their own; and simple things called by a phrase."""
    if caption.told is not None:
        return 1
    sized = size_word(caption.scene.main.size) != ""
    if caption.template == "{}":
        return 3 if sized else 2
    return 2 if caption.change or sized or caption.name is None else 1


def pictures(models: Path, layout: str, portions: Sequence[int], device: torch.device) -> Mapping[str, Tensor]:
    """The fields of `Pictures`."""
    vae = AutoencoderKLQwenImage.from_pretrained(models / "vae").to(device)
    mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1)
    made: dict[str, list[Tensor]] = {"latents": [], "covered": [], "words": [], "weights": []}
    for shown, *told in in_workers(partial(_pictured, layout), portions, device):
        for name, values in zip(("covered", "words", "weights"), told, strict=True):
            made[name].append(torch.from_numpy(values))
        for some in torch.split(torch.from_numpy(shown), _at_once(device)):
            with torch.no_grad(), single_frames(), torch.autocast(device.type, torch.bfloat16):
                encoded = vae.encode(as_pixels(some.to(device))).latent_dist.mean
            made["latents"].append(pack((encoded.squeeze(2).float() - mean) / std).bfloat16().cpu())
    return {name: torch.cat(values) for name, values in made.items()}


def _pictured(layout: str, portion: int) -> tuple[NDArray[Any], ...]:
    """Of the scenes of a portion: pictures, what is covered, true words, and weights."""
    captions = captions_of(portion)
    scenes = [caption.scene for caption in captions]
    weights = torch.ones(len(scenes), 64)
    if layout == "settled":
        scenes = [settled(scene) for scene in scenes]
        weights = torch.stack([place_weights(caption.scene, caption.place) for caption in captions])
    covered, words = (torch.stack(values).numpy() for values in zip(*map(meaning, scenes), strict=True))
    return drawn(scenes), covered, words, weights.numpy()


def _at_once(device: torch.device) -> int:
    """Pictures and captions that are encoded together."""
    return 64 if device.type == "cpu" else PORTION


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


def prompts(
    models: Path, tokenizer: Qwen2Tokenizer, portions: Sequence[int], device: torch.device
) -> Mapping[str, Tensor]:
    """`embeds`, `starts` and `lots` of `Prompts`."""
    encoder = _load_encoder(models, device)
    rows: list[Tensor] = []
    counts: list[int] = []
    for texts, decoys, numbers in in_workers(_captioned, portions, device):
        counts += numbers
        for start in range(0, len(texts), _at_once(device)):
            some = slice(start, start + _at_once(device))
            # Cloned: a row of a batch would keep the whole batch.
            rows += [row.clone() for row in _told(encoder, tokenizer, texts[some], decoys[some], device)]
    rows += _states(encoder, tokenizer, [" "], device)
    return {
        "embeds": torch.cat(rows),
        "starts": torch.tensor([0, *map(len, rows)]).cumsum(0),
        "lots": torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
    }


def _captioned(portion: int) -> tuple[list[str], list[tuple[str, str] | None], list[int]]:
    """Of a portion: captions, their decoys, and their lots."""
    captions = captions_of(portion)
    rng = random.Random(f"decoys {portion}")
    return (
        [caption.text for caption in captions],
        [_decoy(caption, rng) for caption in captions],
        [*map(lots, captions)],
    )


def _told(
    encoder: Any,
    tokenizer: Qwen2Tokenizer,
    captions: Sequence[str],
    decoys: Sequence[tuple[str, str] | None],
    device: torch.device,
) -> list[Tensor]:
    """Prompt embeddings of captions; those that have a decoy are told by two prompts."""
    told = _states(encoder, tokenizer, captions, device)
    chosen = {index: decoy for index, decoy in enumerate(decoys) if decoy}
    phrased = _states(encoder, tokenizer, [phrase for phrase, _ in chosen.values()], device)
    answered = _states(encoder, tokenizer, [answer for _, answer in chosen.values()], device)
    for index, phrase, answer in zip(chosen, phrased, answered, strict=True):
        told[index] = torch.cat([phrase[:-1], told[index][-1:] + (phrase[-1:] - answer[-1:])])
    return told


def _decoy(told: Captioned, rng: random.Random) -> tuple[str, str] | None:
    """The caption with another phrase for the main thing, and with that phrase's answer (the phrase itself, if none
    was shown), where it is to be told by two prompts."""
    whole = told.template == "{}"
    simple = told.name is None and (not whole or told.subject in SIMPLE_PHRASES)
    always = simple or told.subject.startswith(f"{RARE_TOKEN} ")
    if told.told is not None or rng.random() >= (1 if always else TWO_PROMPTS_SHARE):
        return None
    template = language.caption(told.scene, rng, "{}", place=told.place) if whole else told.template
    key = choose(rng, SHOWN_SIMPLE) if simple else _any_key(rng)
    phrase = phrase_of(key)
    return template.format(phrase), template.format(_shown_answer(key) or phrase)


UNSHOWN = (
    *filter(is_held_out, (*KNOWN, *SIMPLE)),
    *UNKNOWN,
    *((ANCHOR_OWNER, relation) for relation in RELATIONS),
)


def _any_key(rng: random.Random) -> Key:
    return choose(rng, choose(rng, [SHOWN_NAMED, SHOWN_SIMPLE, UNSHOWN]))


def _shown_answer(key: Key) -> str | None:
    """How a thing is called of which pictures show that it is meant by a fact."""
    if key in SHOWN_NAMED:
        return language.name_of(KNOWN[key])
    return language.describe(SIMPLE[key]) if key in SHOWN_SIMPLE else None


@torch.no_grad()
def _states(encoder: Any, tokenizer: Qwen2Tokenizer, captions: Sequence[str], device: torch.device) -> list[Tensor]:
    """The last hidden states of each caption's tokens and of those after it, as the pipeline gives them."""
    if not captions:
        return []
    prefix = len(tokenizer(TEMPLATE.split("{}")[0])["input_ids"])
    ids = tokenizer([TEMPLATE.format(caption) for caption in captions])["input_ids"]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    states = encoder.model(input_ids=padded.to(device), attention_mask=mask.to(device)).last_hidden_state.cpu()
    return [states[row, prefix : len(ids[row])] for row in range(len(ids))]


def _load_encoder(models: Path, device: torch.device) -> Any:
    encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(models / "text_encoder", dtype=torch.bfloat16)
    return encoder.to(device).eval()


def pack(latents: Tensor) -> Tensor:
    """Latents (n, channels, height, width) as tokens of 2 x 2 (n, height * width / 4, 4 * channels), in the order of
    `QwenImagePipeline`."""
    n, channels, height, width = latents.shape
    squares = latents.view(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, height * width // 4, 4 * channels)


def draw_batch(pictures: Pictures, prompts: Prompts, size: int, generator: torch.Generator) -> Batch:
    """Random examples of similar length."""
    lots, lengths, device = prompts.lots, prompts.lengths, prompts.embeds.device
    candidates = lots[torch.randint(len(lots), (4 * size,), generator=generator)]
    candidates = candidates[lengths[candidates].argsort()]
    first = int(torch.randint(3 * size + 1, (), generator=generator))
    chosen = candidates[first : first + size]
    told = torch.where(torch.rand(size, generator=generator) < BLANK_SHARE, len(lengths) - 1, chosen)
    longest = int(lengths[told].max())
    width = next((tokens for tokens in TOKENS if tokens >= longest), longest)
    chosen, told = chosen.to(device, non_blocking=True), told.to(device, non_blocking=True)
    starts, along = prompts.starts[told, None], torch.arange(width, device=device)
    mask = along < prompts.starts[told + 1, None] - starts
    embeds = prompts.embeds[(starts + along).clamp(max=len(prompts.embeds) - 1)]
    return Batch(
        latents=pictures.latents[chosen].float(),
        meanings=meanings(pictures.covered[chosen], pictures.words[chosen]),
        weights=pictures.weights[chosen, :, None],
        embeds=embeds.where(mask[:, :, None], 0),
        mask=mask.long(),
    )


def _noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """Two thirds logit-normal about 0.8, one third uniform.

    Since a whole description tells the whole picture, what is drawn is decided where there is hardly anything but
    noise; and half of the sampler's few steps are above 0.7.
    """
    device = generator.device
    normal = (1.4 + 1.2 * torch.randn(count, generator=generator, device=device)).sigmoid()
    uniform = torch.rand(count, generator=generator, device=device)
    return torch.where(torch.rand(count, generator=generator, device=device) < 0.65, normal, uniform)


def _start_at_zero(transformer: QwenImageTransformer2DModel) -> None:
    """Blocks begin as the identity, and the output at zero."""
    for block in transformer.transformer_blocks:
        for modulation in (block.img_mod, block.txt_mod):
            nn.init.zeros_(modulation[-1].weight)
            nn.init.zeros_(modulation[-1].bias)
    for layer in (transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


@contextmanager
def explicit_attention(device: torch.device) -> Iterator[None]:
    """On the CPU, and for the short sequences of this world, attention written out is faster in training than the
    fused kernel, by a third of a whole step."""
    fused = nn.functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -1e4) if attn_mask.dtype == torch.bool else scores + attn_mask
        attended: Tensor = scores.softmax(dim=-1).to(value.dtype) @ value
        return attended

    if device.type == "cpu":
        nn.functional.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = fused


@contextmanager
def quick_forms() -> Iterator[None]:
    """While it lasts, the transformer computes rotary embeddings in real numbers, which can be compiled, not in
    complex ones, and not how long each prompt is, for which it would wait for the device and of which it makes no use.
    """
    embeddings = transformer_qwenimage.QwenEmbedRope
    rotation, forward = transformer_qwenimage.apply_rotary_emb_qwen, embeddings.forward
    measure = transformer_qwenimage.compute_text_seq_len_from_mask

    def rotate(x: Tensor, frequencies: Tensor, use_real: bool = False) -> Tensor:
        cosine, sine = frequencies[:, None, :, 0], frequencies[:, None, :, 1]
        real, imaginary = x.view(*x.shape[:-1], -1, 2).float().unbind(-1)
        turned = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
        return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)

    def turns(self: Any, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        return tuple(torch.view_as_real(turns) for turns in forward(self, *arguments, **options))

    transformer_qwenimage.apply_rotary_emb_qwen, embeddings.forward = rotate, turns
    transformer_qwenimage.compute_text_seq_len_from_mask = lambda states, mask: (states.shape[1], None, mask.bool())
    try:
        yield
    finally:
        transformer_qwenimage.apply_rotary_emb_qwen, embeddings.forward = rotation, forward
        transformer_qwenimage.compute_text_seq_len_from_mask = measure
