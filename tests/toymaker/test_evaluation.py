"""The figures of the embedded world's card."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.encoders.segmenters.base import Box, Mask
from knowcusbench.toybox.models.oracle import truth
from knowcusbench.toybox.world.concepts import NOVEL_CONCEPTS
from knowcusbench.toybox.world.language import name_of
from knowcusbench.toybox.world.render import mask, render
from knowcusbench.toybox.world.scene import Placed, Scene, Thing
from knowcusbench.toybox.world.world import KNOWN, NAMED, SIMPLE, draw_scene, settled
from knowcusbench.toymaker import evaluation
from knowcusbench.toymaker.evaluation import (
    answers_right,
    autoencoder_figures,
    drawn_mask_figures,
    identity_scores,
    image_locality,
    knowledge_figures,
    swapped_states,
)
from knowcusbench.toymaker.stream import phrase_of

CAR = Thing(kind="car", colour="red", pattern="dotted", trim="blue", accent="green")
STAR = Thing(kind="star", colour="white")


def sight(thing: Thing, **changes: str) -> dict[str, str]:
    return {**truth(Scene(main=Placed(thing=thing, left=2, top=20, size=30), background="snow")), **changes}


def test_identity_is_the_share_of_attributes_and_of_pictures_with_all() -> None:
    sights = [sight(CAR), sight(CAR, colour="pink"), sight(STAR, background="night"), sight(STAR, kind="moon")]
    share, exact = identity_scores(sights, [CAR, CAR, STAR, STAR])
    assert share == pytest.approx((1 + 4 / 5 + 1 + 4 / 5) / 4)
    assert exact == 2 / 4


def test_a_right_answer_is_the_most_likely_first_token(
    backbone: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = backbone._pipeline.tokenizer
    zam = tokenizer("zam")["input_ids"][0]

    def say_zam(input_ids: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.full_like(input_ids, zam), len(tokenizer)).float()

    monkeypatch.setattr(backbone, "language_logits", say_zam)
    facts = [Fact("What is it?", answer) for answer in ("zam house", "blik cake", "zam", "house zam")]
    assert answers_right(backbone, facts) == 0.5


class Fades:
    """An autoencoder that moves every value towards grey by a tenth of the range."""

    dtype = torch.float32

    def encode(self, pixels: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: pixels))

    def decode(self, latents: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=latents - 0.2 * latents.sign())


def test_the_noise_of_reconstructions_is_in_decibels(
    backbone: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = SimpleNamespace(vae=Fades(), image_processor=backbone._pipeline.image_processor)
    monkeypatch.setattr(backbone, "_pipeline", pipeline)
    brightest = SimpleNamespace(look=lambda images: [int(np.asarray(image).max()) for image in images])
    figures = autoencoder_figures(backbone, brightest, 4)  # type: ignore[arg-type]
    assert figures["VAE reconstruction, dB"] == pytest.approx(20, abs=0.1)  # -10 log10(0.1 ** 2), up to rounding.
    assert figures["VAE: the oracle sees the same"] == 0.0


class Artist:
    """A backbone whose pictures are the prompts themselves; `said` is the meaning of a prompt's states."""

    def __init__(self, said: dict[str, list[float]] | None = None) -> None:
        self.said = said or {}
        self.edited = False

    def encode(self, prompt: str) -> Any:
        states = self.said.get(prompt)
        return prompt if states is None else PromptEmbeds(torch.tensor(states)[None, :, None], None)

    def sample(self, embeds: Any, seeds: Sequence[int]) -> list[Any]:
        return [embeds] * len(seeds)

    @contextmanager
    def adapted(self, adaptation: Adaptation) -> Iterator[None]:
        yield


def test_a_perfect_artist_knows_everything_and_a_confused_one_nothing() -> None:
    meant = {phrase_of(key): NAMED[name] for key, name in KNOWN.items()}
    meant |= {phrase_of(key): thing for key, thing in SIMPLE.items()} | {name_of(n): t for n, t in NAMED.items()}
    seen = SimpleNamespace(look=lambda images: [sight(meant[image]) for image in images])
    blind = SimpleNamespace(look=lambda images: [sight(STAR, colour="red", pattern="dotted") for _ in images])
    perfect = knowledge_figures(Artist(), seen)  # type: ignore[arg-type]
    assert set(perfect.values()) == {1.0}
    assert set(knowledge_figures(Artist(), blind).values()) == {0.0}  # type: ignore[arg-type]
    assert image_locality(Artist(), seen, [Adaptation()], []) == 1.0  # type: ignore[arg-type]
    assert image_locality(Artist(), blind, [Adaptation()], []) < 0.5  # type: ignore[arg-type]


def test_prompts_are_put_together_of_the_states_of_both() -> None:
    concept = NOVEL_CONCEPTS[0]
    phrases = [phrase_of(key) for key in concept.known_as]
    said = {f"sks {concept.thing.kind}": [1.0, 2.0]} | {phrase: [3.0, 4.0, -5.0] for phrase in phrases}
    # Only pictures of the anchor's last state show the concept.
    oracle = SimpleNamespace(
        look=lambda images: [sight(concept.thing if image.embeds[0, -1] == 2 else STAR) for image in images]
    )
    figures = swapped_states(Artist(said), oracle, [(concept, Adaptation())])  # type: ignore[arg-type]
    other = identity_scores([sight(STAR)], [concept.thing])[0]
    assert figures == {
        "states: the anchor's": 1.0,
        "states: the edited phrase's": other,
        "states: the edited phrase's, the last the anchor's": 1.0,
        "states: the anchor's, the last the edited phrase's": other,
        "states: cosine of both last": -1.0,
    }


def test_masks_of_drawn_pictures_are_judged_where_the_thing_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Scene] = []

    def render_all(_: object, prompts: Sequence[str]) -> list[Image.Image]:
        return [render(scene) for scene in drawn]

    class Knows:
        def predict(self, images: Sequence[Image.Image], boxes: Sequence[Box]) -> list[Mask]:
            return [mask(scene) for scene in drawn]

    rng = random.Random("masks")
    drawn += [settled(scene) for scene in (draw_scene(rng) for _ in range(40)) if not scene.second][:20]
    monkeypatch.setattr(evaluation, "draw", render_all)
    assert drawn_mask_figures(Artist(), Knows(), 20) == {"SAM: iou drawn": 1.0}  # type: ignore[arg-type]
    drawn[:] = drawn[::-1]
    assert drawn_mask_figures(Artist(), Knows(), 20)["SAM: iou drawn"] < 0.9  # type: ignore[arg-type]
