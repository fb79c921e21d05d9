"""Stage `preference`: train the metrics' PickScore to prefer the better one of two pictures of a prompt."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from open_clip import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPModel

from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.storage.files import atomic_path
from knowcusbench.toybox.models.clip_transformers import to_transformers
from knowcusbench.toybox.models.encoders import pickscore_model, pickscore_processor, save_pickscore
from knowcusbench.toybox.world.draws import choose
from knowcusbench.toymaker.clip import also_true, contrast, normalized, unit
from knowcusbench.toymaker.corruption import CORRUPTIONS, changed
from knowcusbench.toymaker.instruments import Facts, Pixels, Said, draw_any_scene, facts, picture, say, to_tensor
from knowcusbench.toymaker.loop import Losses, Schedule, mixed, train

SCHEDULE = Schedule(steps=700, batch_size=24, learning_rate=6e-4, decay_from=0.2, average=0.99)

CHANGES = ("kind", "colour", "pattern", "background", "style", "second kind", "second colour")
"""Attributes in which a picture may differ from its prompt."""

EMBEDDINGS = "text_model.embeddings.token_embedding.weight"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A prompt with a good picture and two worse ones: one corrupted, one with other content.

    Attributes:
        truth: facts of the good picture.
        corruption: the corruption of the second picture, of `CORRUPTIONS`.
        change: the attribute in which the third picture differs, of `CHANGES`.
    """

    prompt: Said
    truth: Facts
    good: Pixels
    spoilt: Pixels
    other: Pixels
    corruption: str
    change: str


def draw_choice(rng: random.Random) -> Choice:
    """Draw a random choice. The prompt always mentions the attribute in which the other picture differs."""
    scene = draw_any_scene(rng)
    truth = facts(scene)
    change = choose(rng, [attribute for attribute in CHANGES if attribute in dict(truth)])
    prompt = say(scene, rng, detail=choose(rng, (0.4, 0.7, 1.0)))
    while change not in dict(prompt.claims):
        prompt = say(scene, rng, detail=choose(rng, (0.4, 0.7, 1.0)))
    corruption = choose(rng, list(CORRUPTIONS))
    good = picture(scene)
    return Choice(
        prompt=prompt,
        truth=truth,
        good=good,
        spoilt=CORRUPTIONS[corruption](good, scene.main, rng),
        other=picture(changed(scene, change, rng)),
        corruption=corruption,
        change=change,
    )


def train_preference(directory: Path, folder: Path, device: torch.device, clip: Path) -> None:
    """Train from the metrics' CLIP, like PickScore from CLIP-H, and write the checkpoint into a new directory.

    The objective is PickScore's (arXiv 2305.01569, section 3): cross-entropy of the softmax over the two pictures of a
    pair, by their scaled cosine with the prompt. CLIP's own contrast of the good pictures is kept in addition.

    Args:
        folder: for the state of the training.
        clip: the checkpoint of stage `clip`.
    """
    processor = pickscore_processor()
    model = from_clip(clip).to(device)

    def losses(step: int, generator: torch.Generator) -> Losses:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        choices = [draw_choice(rng) for _ in range(SCHEDULE.batch_size)]
        pictures = [one.good for one in choices] + [one.spoilt for one in choices] + [one.other for one in choices]
        tokens = processor.tokenizer([one.prompt.text for one in choices], padding=True, return_tensors="pt").input_ids
        with mixed(device):
            pixels = normalized(to_tensor(pictures)).to(device)
            images = unit(model.get_image_features(pixel_values=pixels).pooler_output)
            texts = unit(model.get_text_features(input_ids=tokens.to(device)).pooler_output)
        scale = model.logit_scale.exp().clamp(max=100)
        good, spoilt, other = images.chunk(3)
        ignored = also_true([one.truth for one in choices], [one.prompt for one in choices]).to(device)
        return {
            "spoilt": preference_loss(scale * (good * texts).sum(dim=1), scale * (spoilt * texts).sum(dim=1)),
            "other": preference_loss(scale * (good * texts).sum(dim=1), scale * (other * texts).sum(dim=1)),
            "contrast": contrast(scale * good @ texts.T, ignored) / 2,
        }

    with sdpa_kernel(SDPBackend.MATH):  # On CPUs, the fused kernels have a slower backward.
        train(model, losses, SCHEDULE, folder, label="preference")
    with atomic_path(directory) as temporary:
        save_pickscore(model, temporary)


def preference_loss(preferred: Tensor, rejected: Tensor) -> Tensor:
    """Return `-log softmax` of the preferred one of two scores, the mean over pairs (n,).

    >>> round(preference_loss(torch.tensor([2.0]), torch.tensor([2.0])).item(), 4)
    0.6931
    """
    return functional.softplus(rejected - preferred).mean()


def from_clip(clip: Path) -> CLIPModel:
    """Convert the CLIP of an open_clip directory to PickScore's model, in fp32.

    The towers are the same; the words are those of PickScore's tokenizer.
    """
    weights = load_file(clip / "open_clip_model.safetensors")
    converted = {name: tensor.float() for name, tensor in to_transformers(weights)}
    vocabulary = pickscore_processor().tokenizer.get_vocab()
    of_clip = SimpleTokenizer().encoder
    special = {"<|startoftext|>": "<start_of_text>", "<|endoftext|>": "<end_of_text>"}
    words = sorted(vocabulary, key=lambda word: vocabulary[word])
    places = [of_clip[word if word in of_clip else special[word]] for word in words]
    converted[EMBEDDINGS] = converted[EMBEDDINGS][places]
    model = pickscore_model()
    model.load_state_dict(converted)
    return model


def evaluate_preference(directory: Path, *, pairs: int = 1000) -> dict[str, float]:
    """Return how often a checkpoint prefers the better one of two held-out pictures.

    `pairs` over all; `pairs spoilt` and `pairs other`; and each of `CORRUPTIONS` and `CHANGES`.
    """
    encoder = TransformersClipSpec(source=str(directory), processor=str(directory), device="cpu", batch_size=100).load()
    rng = random.Random("held-out pairs for pickscore")
    choices = [draw_choice(rng) for _ in range(pairs // 2)]
    texts = encoder.encode_texts([one.prompt.text for one in choices])

    def scores(pictures: Sequence[Pixels]) -> Tensor:
        images = encoder.encode_images([Image.fromarray(np.asarray(one)) for one in pictures])
        return (images * texts).sum(dim=1)

    good = scores([one.good for one in choices])
    spoilt = (good > scores([one.spoilt for one in choices])).tolist()
    other = (good > scores([one.other for one in choices])).tolist()
    figures = {"pairs": spoilt + other, "pairs spoilt": spoilt, "pairs other": other}
    for name in CORRUPTIONS:
        figures[f"pairs {name}"] = [won for won, one in zip(spoilt, choices, strict=True) if one.corruption == name]
    for name in CHANGES:
        figures[f"pairs {name}"] = [won for won, one in zip(other, choices, strict=True) if one.change == name]
    return {name: float(np.mean(won)) for name, won in figures.items()}
