"""Every family on a tiny random pipeline, and what is known of it at full size without a download."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch

from knowcusbench.backbone import Flux2KleinSpec, Lumina2Spec, QwenImage21Spec, QwenImageSpec, ZImageSpec
from knowcusbench.backbone.counting import meta_model
from knowcusbench.backbone.published import published_checkpoint
from knowcusbench.backbone.spec import DiffusersSpec
from knowcusbench.backbone.targets import lora_targets
from knowcusbench.config.build import build
from knowcusbench.config.compose import compose_config, read_config
from knowcusbench.errors import ConfigError, WeightsError
from knowcusbench.testing.backbones import check_backbone
from knowcusbench.testing.tiny_families import TINY, tiny_flux2_klein, tiny_qwen_image_21, tiny_z_image

pytestmark = pytest.mark.model

SPECS: dict[str, type[DiffusersSpec]] = {
    "flux2_klein": Flux2KleinSpec,
    "z_image": ZImageSpec,
    "lumina2": Lumina2Spec,
    "qwen_image_21": QwenImage21Spec,
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny pipelines by the names of the configurations."""
    root = tmp_path_factory.mktemp("tiny")
    for name, write in TINY.items():
        write(root / name)
    return {name: root / name for name in TINY}


def tiny_spec(source: Path, name: str, **settings: object) -> DiffusersSpec:
    size = {"height": 64, "width": 64, "steps": 3, "true_cfg_scale": 3.0, "dtype": "float32", "device": "cpu"}
    return SPECS[name](**{"source": str(source), **size, **settings})


@pytest.mark.parametrize("name", SPECS)
def test_a_family_keeps_the_contract(name: str, tiny: dict[str, Path], tmp_path: Path) -> None:
    check_backbone(tiny_spec(tiny[name], name), tmp_path)


def test_a_sibling_draws_with_the_lora_of_the_base(tmp_path: Path) -> None:
    tiny_flux2_klein(tmp_path / "base")
    tiny_flux2_klein(tmp_path / "fast", is_distilled=True, seed=1)
    for shared in ("text_encoder", "vae"):
        shutil.rmtree(tmp_path / "fast" / shared)
        shutil.copytree(tmp_path / "base" / shared, tmp_path / "fast" / shared)
    settings = {"drawing_source": str(tmp_path / "fast"), "true_cfg_scale": 1.0}
    base, fast = (tiny_spec(tmp_path / name, "flux2_klein", true_cfg_scale=1.0).load() for name in ("base", "fast"))
    both = tiny_spec(tmp_path / "base", "flux2_klein", **settings).load()
    embeds = both.encode("a red car")
    assert both.sample(embeds, [1])[0].tobytes() == fast.sample(embeds, [1])[0].tobytes()
    noise, sigma = torch.ones(1, *both.family.latent_shape(both._pipeline.vae.config, 64, 64)), torch.tensor([0.5])
    assert torch.equal(both.velocity(noise, sigma, embeds), base.velocity(noise, sigma, embeds))
    assert len({base.digest, fast.digest, both.digest}) == 3


def test_guidance_on_a_distilled_checkpoint_is_refused_before_weights_are_loaded(tmp_path: Path) -> None:
    tiny_flux2_klein(tmp_path / "fast", is_distilled=True)
    (tmp_path / "fast" / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"backbone\.true_cfg_scale: .*fast' is distilled .* expected 1, found 3"):
        tiny_spec(tmp_path / "fast", "flux2_klein").load()


def test_sampling_levels_that_steps_cannot_change_are_refused(tmp_path: Path) -> None:
    tiny_qwen_image_21(tmp_path / "turbo")
    index = json.loads((tmp_path / "turbo" / "model_index.json").read_text())
    (tmp_path / "turbo" / "model_index.json").write_text(json.dumps({**index, "sample_sigmas": [1.0, 0.7, 0.3]}))
    with pytest.raises(WeightsError, match=r"3 noise levels of its own \(sample_sigmas"):
        tiny_spec(tmp_path / "turbo", "qwen_image_21").load()


@pytest.mark.parametrize("name", ["flux2_klein", "z_image"])
def test_a_tokenizer_without_a_chat_template_is_one_line(name: str, tiny: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(tiny[name], tmp_path / name)
    (copy / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(WeightsError, match="has no chat template that takes a prompt; copy the checkpoint again"):
        tiny_spec(copy, name).load()


@pytest.mark.parametrize(("shift", "mean"), [(3.0, 0.68), (6.0, 0.77)])
def test_z_image_is_trained_at_the_levels_of_its_scheduler(shift: float, mean: float, tmp_path: Path) -> None:
    """The mean level of diffusers' own trainer, which draws from the scheduler's grid."""
    tiny_z_image(tmp_path, shift=shift)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert ZImageSpec.family.noise_shift(scheduler) == shift
    assert float(scheduler.sigmas[:1000].mean()) == pytest.approx(mean, abs=0.005)


def test_lumina2s_negative_prompt_has_no_system_prompt(tiny: dict[str, Path]) -> None:
    backbone = tiny_spec(tiny["lumina2"], "lumina2").load()
    device = torch.device("cpu")
    plain = backbone.family.encode_negative(backbone._pipeline, "a car", device)
    assert int(plain.mask.sum()) == len(backbone._pipeline.tokenizer("a car")["input_ids"])
    assert int(plain.mask.sum()) < int(backbone.encode("a car").mask.sum())
    input_ids, labels = backbone.question_tokens("What is it?", "red car", "plain")
    # The token that begins a text stands before the question, and not before the answer.
    first = backbone._pipeline.tokenizer.bos_token_id
    assert input_ids[0].tolist().count(first) == 1
    assert first not in labels


PUBLISHED = {
    "flux2_klein": ({"transformer": 3.876, "vae": 0.084046115}, 34.8, 60),
    "z_image": ({"transformer": 6.155, "text_encoder": 4.022}, 55.6, 136),
    "lumina2": ({"transformer": 2.61, "text_encoder": 2.614}, None, 120),
    "qwen_image_21": ({"transformer": 7.115, "text_encoder": 8.767}, None, 128),
}
"""Billions of parameters as published or counted by others, TFLOP of a forward, and layers that diffusers' DreamBooth
script adapts: four in each block."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_is_known_without_a_download(name: str) -> None:
    config, _ = read_config(compose_config([f"backbone={name}", "device=cpu"]))
    spec = build(config.backbone, "backbone")
    billions, teraflops, adapted = PUBLISHED[name]
    footprint = spec.footprint()
    for component, expected in billions.items():
        assert footprint.parameters[component] / 1e9 == pytest.approx(expected, abs=5e-4)
    if teraflops:
        assert footprint.training_step_flops / 3e12 == pytest.approx(teraflops, abs=0.05)
    checkpoint = published_checkpoint(spec.family, spec.source)
    transformer = meta_model(checkpoint, "transformer")
    assert len(lora_targets(spec.family, transformer)) == adapted


def test_a_sibling_of_the_same_shapes_is_known_too() -> None:
    spec = QwenImageSpec(source="Qwen/Qwen-Image-2512")
    assert spec.footprint().parameters == QwenImageSpec(source="Qwen/Qwen-Image").footprint().parameters
    assert published_checkpoint(Flux2KleinSpec.family, "black-forest-labs/FLUX.2-klein-4B") is not None
    assert published_checkpoint(ZImageSpec.family, "Tongyi-MAI/Z-Image-Turbo") is not None


REACH = {
    "qwen_image": (28, 28),
    "flux2_klein": (36, 27),
    "z_image": (36, 35),
    "lumina2": (26, 25),
    "qwen_image_21": (36, 36),
}
"""Decoder layers, and how many of them reach a picture."""


@pytest.mark.parametrize("name", REACH)
def test_a_recipe_edits_layers_that_reach_a_picture_and_has_a_control_of_those_that_do_not(name: str) -> None:
    config, _ = read_config(compose_config([f"backbone={name}", "device=cpu"]))
    layers, reach = REACH[name]
    chosen = config.recipe["ablation"]["layers"]
    unseen = set(chosen.get("unseen", []))
    assert unseen <= set(range(reach, layers))
    assert bool(unseen) == (reach < layers)
    for block, indices in chosen.items():
        assert block == "unseen" or set(indices) <= set(range(reach)), block
    edited = config.recipe["ultraedit"]["layers"]
    assert edited == chosen["published"]
    # The paper's depth: layers 18 to 25 of 28 that reach a picture.
    assert edited[0] == pytest.approx(18 / 28 * reach, abs=1)
