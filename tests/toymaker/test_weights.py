"""The weights in the package."""

import json
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline
from PIL import Image

from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.config.build import build
from knowcusbench.toybox import TRAINED
from knowcusbench.toybox.models.oracle import OracleSpec
from knowcusbench.toybox.models.oracle_net import Oracle
from knowcusbench.toybox.shipped import MANIFEST, WEIGHTS, check_weights, world_digest
from knowcusbench.toybox.world.language import name_of
from knowcusbench.toybox.world.render import render
from knowcusbench.toybox.world.world import NAMED, draw_scene
from knowcusbench.toymaker import autoencoder, clip, denoiser, language_model, phrases, preference, segmenter
from knowcusbench.toymaker import oracle as oracle_stage
from knowcusbench.toymaker.__main__ import LIMIT
from knowcusbench.toymaker.card import PICTURES, fixed_samples
from knowcusbench.toymaker.clip import evaluate_clip
from knowcusbench.toymaker.evaluation import FIXED_PROMPTS, caption_figures, draw, identity_scores, language_figures
from knowcusbench.toymaker.figures import compose
from knowcusbench.toymaker.preference import evaluate_preference
from knowcusbench.toymaker.segmenter import evaluate_segmenter

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def world() -> DiffusersBackbone:
    spec: QwenImageSpec = build(compose([f"backbone.source={WEIGHTS / 'pipeline'}"]).backbone, "backbone")
    return spec.load()


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return OracleSpec(source=str(WEIGHTS / "oracle"), device="cpu").load()


def test_all_parts_are_there_as_they_were_trained_and_small() -> None:
    for part in TRAINED:
        check_weights(WEIGHTS, part, world_digest())
    files = {path.relative_to(WEIGHTS).as_posix(): path for path in WEIGHTS.rglob("*") if path.is_file()}
    assert set(files) - {MANIFEST} == set(json.loads((WEIGHTS / MANIFEST).read_text())["files"])
    assert sum(path.stat().st_size for path in files.values()) < LIMIT


def test_the_pipeline_goes_round_trip(tmp_path: Path) -> None:
    first = QwenImagePipeline.from_pretrained(WEIGHTS / "pipeline", torch_dtype=torch.bfloat16)
    first.save_pretrained(tmp_path / "again")
    second = QwenImagePipeline.from_pretrained(tmp_path / "again", torch_dtype=torch.bfloat16)
    for name in ("transformer", "text_encoder", "vae"):
        one, other = getattr(first, name).state_dict(), getattr(second, name).state_dict()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert {tensor.dtype for tensor in one.values()} == {torch.bfloat16}
    prefix = first.prompt_template_encode.split("{}")[0]
    assert len(first.tokenizer(prefix)["input_ids"]) == first.prompt_template_encode_start_idx == 34


def test_latents_are_normal_and_their_posterior_narrow(world: DiffusersBackbone) -> None:
    rng = random.Random(0)
    latents = world.encode_images([render(draw_scene(rng)) for _ in range(32)])
    channels = latents.mean.transpose(0, 1).flatten(1)
    assert channels.mean(dim=1).abs().max() < 0.25
    assert ((channels.std(dim=1) - 1).abs() < 0.2).all()
    assert latents.std.max() < 0.1


def test_the_text_encoder_knows_the_facts(world: DiffusersBackbone) -> None:
    assert min(language_figures(world).values()) >= 0.98


def test_they_are_those_of_the_recipe_at_its_end() -> None:
    stages = json.loads((WEIGHTS / MANIFEST).read_text())["training"]["stages"]
    recipe = {
        "vae": autoencoder.SCHEDULE,
        "vae/things": autoencoder.THINGS_SCHEDULE,
        "lm": language_model.SCHEDULE,
        "lm/pointing": language_model.POINTING,
        "dit": denoiser.SCHEDULE,
        "phrases": phrases.SCHEDULE,
        "oracle": oracle_stage.SCHEDULE,
        "clip": clip.SCHEDULE,
        "preference": preference.SCHEDULE,
        "sam": segmenter.SCHEDULE,
    }
    assert stages.keys() == recipe.keys()
    for name, schedule in recipe.items():
        assert stages[name]["step"] == schedule.steps
        assert asdict(schedule).items() >= stages[name]["schedule"].items(), name


def test_what_reads_pictures_reads_them() -> None:
    seen = evaluate_clip(WEIGHTS / "clip", scenes=300)
    assert seen["zero_shot"] >= 0.95
    assert seen["retrieval"] >= 0.95
    assert evaluate_preference(WEIGHTS / "pickscore", pairs=300)["pairs"] >= 0.95
    assert evaluate_segmenter(WEIGHTS / "sam", scenes=50)["iou references"] >= 0.9


def test_descriptions_are_drawn(world: DiffusersBackbone, oracle: Oracle) -> None:
    figures = caption_figures(world, oracle, 40)
    assert figures["captions: type, colour, pattern all right"] > 0.93
    assert figures["captions: second object"] > 0.9
    assert figures["captions: background"] >= 0.95
    assert figures["captions: style"] >= 0.9


def test_named_things_are_drawn(world: DiffusersBackbone, oracle: Oracle) -> None:
    names = list(NAMED)[::4]
    images = draw(world, [f"a photo of {name_of(name)} in the snow" for name in names])
    sights = oracle.look(images)
    assert sum(sight["background"] == "snow" for sight in sights) >= len(names) - 1
    share, _ = identity_scores(sights, [NAMED[name] for name in names])
    assert share > 0.8
    assert identity_scores(sights, [NAMED[name] for name in reversed(names)])[0] < share - 0.2


def test_fixed_samples_are_those_of_the_card() -> None:
    """Within a tolerance: the last bits differ between processors."""
    drawn = np.array(fixed_samples()).astype(float)
    shown = np.array(Image.open(PICTURES)).astype(float)
    assert drawn.shape == shown.shape == (64, 64 * len(FIXED_PROMPTS), 3)
    distance = abs(drawn - shown).mean(axis=(0, 2)).reshape(-1, 64).mean(axis=1)
    assert distance.max() < 1
    assert abs(drawn - np.roll(shown, 64, axis=1)).mean() > 30
