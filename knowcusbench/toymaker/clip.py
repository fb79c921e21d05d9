"""Stage `clip`: train the metrics' CLIP to match sentences with pictures."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.storage.files import atomic_path
from knowcusbench.toybox.models.encoders import IMAGE_SIZE, PATCH_SIZE, VISION_WIDTH, clip_model, save_clip, world_texts
from knowcusbench.toybox.world.render import render
from knowcusbench.toybox.world.vocabulary import BACKGROUNDS, CLASSES, COLOURS, PATTERNS, SHAPES, STYLES
from knowcusbench.toymaker.instruments import (
    NOTHING,
    THING_WORDS,
    Facts,
    Patches,
    Said,
    draw_any_scene,
    facts,
    patches,
    picture,
    say,
    to_tensor,
    waves,
)
from knowcusbench.toymaker.loop import Losses, Schedule, mixed, train
from knowcusbench.toymaker.oracle import disturb

SCHEDULE = Schedule(
    steps=6000, batch_size=32, learning_rate=3e-3, decay_from=0.2, average=0.995, weight_decay=0.02, muon=True
)

CUT_OUT = 1 / 8
"""Share of pictures that show their main thing alone on white."""

PARTIAL = 0.6
"""Share of sentences that omit attributes."""

PROMPTS: Mapping[str, Mapping[str, str]] = {
    "kind": {kind: f"a {kind}" for kind in (*SHAPES, *CLASSES)},
    "colour": {colour: f"a {colour} thing" for colour in COLOURS},
    "pattern": {pattern: f"a {pattern} thing" for pattern in PATTERNS},
    "background": {background: f"a thing {place}" for background, place in BACKGROUNDS.items()},
    "style": {style: f"{words} of a thing" for style, words in STYLES.items()},
    "second kind": {shape: f"a thing next to a {shape}" for shape in SHAPES},
    "second colour": {colour: f"a thing next to a {colour} thing" for colour in COLOURS},
}
"""By attribute, a sentence for each of its values: zero-shot classification chooses among them."""

MAIN = ("kind", "colour", "pattern", "background", "style")
"""The attributes that every scene has."""


def train_clip(directory: Path, folder: Path, device: torch.device) -> None:
    """Train, and write the checkpoint into a new directory.

    The loss contrasts pictures and sentences in the batch. A sentence that is also true of another picture does not
    count against it. Each attribute of a picture is also classified among all its values, with the sentences of
    `PROMPTS`.

    Args:
        folder: for the state of the training.
    """
    tokenizer = SimpleTokenizer()
    model = clip_model().to(device)
    forget_words(model, tokenizer)
    with torch.no_grad():
        model.visual.positional_embedding[1:] = waves(IMAGE_SIZE // PATCH_SIZE, VISION_WIDTH)
    torch.manual_seed(SCHEDULE.seed)
    pupil = Pupil(model).to(device)
    prompts = tokenize(tokenizer, [text for prompts in PROMPTS.values() for text in prompts.values()]).to(device)

    def losses(step: int, generator: torch.Generator) -> Losses:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        pixels, truths, said, shown = draw_batch(rng, SCHEDULE.batch_size)
        pixels = (disturb(pixels * 2 - 1, generator) + 1) / 2
        tokens = tokenize(tokenizer, [one.text for one in said]).to(device)
        with mixed(device):
            features, seen = pupil(normalized(pixels).to(device))
            images = unit(features)
            texts = unit(embed_texts(model, tokens))
            named = unit(embed_texts(model, prompts))
        scale = model.logit_scale.exp().clamp(max=100)
        return {
            "pairs": contrast(scale * images @ texts.T, also_true(truths, said).to(device)),
            **attribute_losses(scale * images @ named.T, truths),
            **patch_losses(seen.float(), shown),
        }

    with sdpa_kernel(SDPBackend.MATH):  # On CPUs, the fused kernels have a slower backward.
        train(pupil, losses, SCHEDULE, folder, label="clip")
    with atomic_path(directory) as temporary:
        save_clip(model, temporary)


class Pupil(nn.Module):
    """A CLIP with a temporary head on its vision tower: a layer that reads the content of each patch from its state.

    Without it, a small transformer takes far longer to learn that pictures show things.
    """

    def __init__(self, clip: open_clip.CLIP) -> None:
        super().__init__()
        self.clip = clip
        self.clip.visual.output_tokens = True
        self.head = nn.Linear(VISION_WIDTH, sum(PATCH_OUTPUTS))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return image features (n, dim), and predictions (n, patches, outputs) in the order of `PATCH_OUTPUTS`."""
        features, states = self.clip.visual(pixels)
        return features, self.head(states)


PATCH_OUTPUTS = (*map(len, THING_WORDS.values()), PATCH_SIZE**2, 3)
"""Number of outputs per patch for the words of its thing, the covered pixels, and the frame: see `Patches`."""


def patch_losses(seen: Tensor, shown: Sequence[Patches]) -> Losses:
    """Return the losses of patch predictions (n, patches, outputs)."""
    *words, covered, frame = torch.split(seen, list(PATCH_OUTPUTS), dim=-1)

    def stacked(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(seen.device)

    pixels = stacked([one.covered for one in shown])
    apart = (frame - stacked([one.frame for one in shown])).abs().sum(dim=-1)
    near = pixels.mean(dim=-1) > 1 / 5
    losses = {
        "patch pixels": 4 * functional.binary_cross_entropy_with_logits(covered, pixels),
        "patch frame": (apart * near).sum() / near.sum(),
    }
    for attribute, logits in zip(THING_WORDS, words, strict=True):
        labels = stacked([one.words[attribute] for one in shown])
        losses[f"patch {attribute}"] = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=NOTHING
        )
    return losses


@torch.no_grad()
def forget_words(model: open_clip.CLIP, tokenizer: SimpleTokenizer) -> None:
    """Set the embeddings of words outside the world to zero, instead of noise."""
    known = [index for text in world_texts() for index in tokenizer.encode(text)]
    weight = model.token_embedding.weight
    kept = torch.zeros(len(weight), 1, device=weight.device)
    kept[[*known, tokenizer.sot_token_id, tokenizer.eot_token_id]] = 1
    weight *= kept


def draw_batch(rng: random.Random, count: int) -> tuple[Tensor, list[Facts], list[Said], list[Patches]]:
    """Draw pictures (count, 3, 64, 64) from 0 to 1, with their facts, a sentence about each, and their patches."""
    pictures, truths, said, shown = [], [], [], []
    for _ in range(count):
        scene = draw_any_scene(rng)
        cut = scene.second is None and rng.random() < CUT_OUT * 3 / 2
        detail = rng.choice((0.3, 0.6)) if rng.random() < PARTIAL else 1.0
        pictures.append(picture(scene, cut=cut))
        truths.append(frozenset(fact for fact in facts(scene) if not (cut and fact[0] == "background")))
        said.append(say(scene, rng, detail=detail, place=not cut))
        shown.append(patches(scene, PATCH_SIZE))
    return to_tensor(pictures), truths, said, shown


def tokenize(tokenizer: SimpleTokenizer, texts: Sequence[str]) -> Tensor:
    """Return tokens (texts, longest), no longer than needed."""
    tokens: Tensor = tokenizer(list(texts))
    return tokens[:, : int((tokens.argmax(dim=1)).max()) + 1]


def embed_texts(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Run `encode_text` on tokens (texts, length) of less than the full context: later positions have no influence."""
    length = tokens.shape[1]
    states = model.token_embedding(tokens) + model.positional_embedding[:length]
    states = model.transformer(states, attn_mask=model.attn_mask[:length, :length])
    ends = tokens.argmax(dim=1)
    last = model.ln_final(states[torch.arange(len(tokens), device=tokens.device), ends])
    features: Tensor = last @ model.text_projection
    return features


def normalized(pixels: Tensor) -> Tensor:
    """Normalise pictures (n, 3, 64, 64) from 0 to 1 for CLIP."""
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (pixels - mean) / std


def unit(features: Tensor) -> Tensor:
    return functional.normalize(features.float(), dim=-1)


def also_true(truths: Sequence[Facts], said: Sequence[Said]) -> Tensor:
    """Return a mask (pictures, sentences) of sentences that are true of another picture than their own."""
    return torch.tensor(
        [
            [sentence.claims <= truth and place != own for own, sentence in enumerate(said)]
            for place, truth in enumerate(truths)
        ]
    )


def contrast(logits: Tensor, ignored: Tensor) -> Tensor:
    """Return CLIP's symmetric cross-entropy of (n, n) logits, without the ignored pairs."""
    logits = logits.masked_fill(ignored, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def attribute_losses(logits: Tensor, truths: Sequence[Facts]) -> Losses:
    """Return the cross-entropy of each attribute, over the pictures that have it.

    `logits` (pictures, prompts) with the prompts of all attributes in order.
    """
    losses = {}
    start = 0
    for attribute, prompts in PROMPTS.items():
        values = list(prompts)
        among = logits[:, start : start + len(values)]
        start += len(values)
        wanted = [next((values.index(value) for key, value in truth if key == attribute), -100) for truth in truths]
        target = torch.tensor(wanted, device=logits.device)
        total = functional.cross_entropy(among, target, ignore_index=-100, reduction="sum")
        losses[attribute] = total / len(truths)
    return losses


def evaluate_clip(directory: Path, *, scenes: int = 2000) -> dict[str, float]:
    """Evaluate a checkpoint on held-out scenes.

    `zero_shot <attribute>` is the accuracy of choosing among its `PROMPTS`, and `zero_shot` the mean over the
    attributes that every scene has. `retrieval` compares a hundred scenes with their full captions: how often the
    nearest caption of a picture is its own, and the nearest picture of a caption, as a mean of both directions.
    """
    encoder = ClipSpec(source=str(directory), device="cpu", batch_size=100).load()
    rng = random.Random("held-out scenes for clip")
    drawn = [draw_any_scene(rng) for _ in range(scenes)]
    images = encoder.encode_images([render(scene) for scene in drawn])
    figures = {}
    for attribute, prompts in PROMPTS.items():
        values = list(prompts)
        nearest = (images @ encoder.encode_texts(list(prompts.values())).T).argmax(dim=1).tolist()
        told = [dict(facts(scene)).get(attribute) for scene in drawn]
        right = [values[place] == value for place, value in zip(nearest, told, strict=True) if value]
        figures[f"zero_shot {attribute}"] = sum(right) / len(right)
    figures["zero_shot"] = sum(figures[f"zero_shot {attribute}"] for attribute in MAIN) / len(MAIN)
    texts = encoder.encode_texts([say(scene, rng, detail=1).text for scene in drawn])
    found = []
    for start in range(0, scenes, 100):
        similarity = images[start : start + 100] @ texts[start : start + 100].T
        own = torch.arange(len(similarity))
        found += [(similarity.argmax(dim=dim) == own).float().mean() for dim in (0, 1)]
    figures["retrieval"] = float(torch.stack(found).mean())
    return figures
