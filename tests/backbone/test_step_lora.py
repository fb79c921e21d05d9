"""A step-distilled LoRA beside the adapters of the customisation."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import miniature_spec
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline
from safetensors.torch import load_file, save_file

from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.backbone.step_lora import StepLora
from knowcusbench.errors import ConfigError, WeightsError

PROMPT = "a red robot on the beach"
ENDINGS = ("to_q", "add_k_proj", "img_mlp.net.2", "txt_mod.1")

LIGHTNING_SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": math.log(3),
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": math.log(3),
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
"""As in generate_with_diffusers.py of github.com/ModelTC/Qwen-Image-Lightning."""


@pytest.fixture(scope="module")
def lightning(backbone: DiffusersBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the published form: `lora_down`, `lora_up` and `alpha` of both streams."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, module in backbone.transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(ENDINGS):
            tensors[f"{name}.lora_down.weight"] = (
                torch.randn(4, module.in_features, generator=generator) / module.in_features**0.5
            )
            tensors[f"{name}.lora_up.weight"] = torch.randn(module.out_features, 4, generator=generator) * 2
            tensors[f"{name}.alpha"] = torch.tensor(2.0)
    path = tmp_path_factory.mktemp("lightning") / "lightning.safetensors"
    save_file(tensors, path)
    return path


def a_lora(backbone: DiffusersBackbone) -> Adapter:
    generator = torch.Generator().manual_seed(1)
    factors = {}
    for name in backbone.lora_targets:
        layer = backbone.transformer.get_submodule(name)
        down = torch.randn(2, layer.in_features, generator=generator) / layer.in_features**0.5
        factors[name] = (down, 4 * torch.randn(layer.out_features, 2, generator=generator))
    return Adapter.from_factors(factors)


def fast_spec(miniature: Path, lightning: Path, **changes):
    step_lora = StepLora(source=str(lightning), **changes)
    return miniature_spec(miniature, dtype="float32", steps=4, true_cfg_scale=1.0, step_lora=step_lora)


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def by_diffusers(miniature: Path, lightning: Path, custom: Adapter | None, strength: float = 1.0) -> np.ndarray:
    """The same through diffusers' own loader, two PEFT adapters beside each other."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(LIGHTNING_SCHEDULER)
    pipeline = QwenImagePipeline.from_pretrained(miniature, dtype=torch.float32, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(lightning.parent), weight_name=lightning.name, adapter_name="fast")
    names, weights = ["fast"], [strength]
    if custom:
        state = {f"transformer.{name}": tensor for name, tensor in custom.weights.items()}
        pipeline.load_lora_weights(state, adapter_name="custom")
        names, weights = ["fast", "custom"], [strength, 1.0]
    pipeline.set_adapters(names, weights)
    return pixels(
        pipeline(
            PROMPT,
            true_cfg_scale=1.0,
            height=64,
            width=64,
            num_inference_steps=4,
            num_images_per_prompt=2,
            generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
        ).images
    )


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_images_are_those_of_diffusers_with_both_adapters(
    miniature: Path, lightning: Path, backbone_fp32: DiffusersBackbone, strength: float
) -> None:
    fast = fast_spec(miniature, lightning, strength=strength).load()
    embeds = fast.encode(PROMPT)
    alone = pixels(fast.sample(embeds, [1, 2]))
    with fast.adapted(Adaptation()):
        assert np.array_equal(pixels(fast.sample(embeds, [1, 2])), alone)
    custom = a_lora(fast)
    with fast.adapted(Adaptation(transformer=custom)):
        both = pixels(fast.sample(embeds, [1, 2]))
    assert abs(alone - by_diffusers(miniature, lightning, None, strength)).max() <= 1
    assert abs(both - by_diffusers(miniature, lightning, custom, strength)).max() <= 1
    assert abs(alone - both).max() > 5
    assert abs(alone - pixels(backbone_fp32.sample(embeds, [1, 2]))).max() > 5


def test_the_base_is_bit_identical_and_training_sees_it_without_the_lora(
    miniature: Path, lightning: Path, backbone_fp32: DiffusersBackbone
) -> None:
    fast = fast_spec(miniature, lightning).load()
    latents = torch.randn(1, fast._pipeline.vae.config.z_dim, 8, 8, generator=torch.Generator().manual_seed(0))
    fast.sample(fast.encode(PROMPT), [1])
    velocities = [one.velocity(latents, torch.tensor([0.4]), one.encode(PROMPT)) for one in (fast, backbone_fp32)]
    assert torch.equal(*velocities)
    fast.check_intact()
    assert fast.digest != backbone_fp32.digest
    assert fast.digest != fast_spec(miniature, lightning, strength=0.5).load().digest


def test_the_scheduler_is_the_published_one(miniature: Path, lightning: Path) -> None:
    published = FlowMatchEulerDiscreteScheduler.from_config(LIGHTNING_SCHEDULER)
    ours = fast_spec(miniature, lightning).load()._pipeline.scheduler
    for scheduler in (published, ours):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 8, 8), mu=math.log(3))
    torch.testing.assert_close(ours.sigmas, published.sigmas)
    kept = fast_spec(miniature, lightning, shift=None).load()._pipeline.scheduler
    assert kept.config == miniature_spec(miniature).load()._pipeline.scheduler.config


def test_a_file_that_is_no_such_lora_is_one_line(miniature: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"backbone.step_lora: can't load '/no/where'") as caught:
        fast_spec(miniature, Path("/no/where")).load()
    assert "\n" not in str(caught.value)
    other = tmp_path / "other.safetensors"
    save_file({"blocks.0.weight": torch.zeros(2)}, other)
    with pytest.raises(WeightsError, match="is not a plain LoRA"):
        fast_spec(miniature, other).load()
    save_file({"nowhere.lora_A.weight": torch.zeros(1, 2), "nowhere.lora_B.weight": torch.zeros(2, 1)}, other)
    with pytest.raises(WeightsError, match="no linear layer 'nowhere'"):
        fast_spec(miniature, other).load()
    with pytest.raises(ConfigError, match=r"step_lora.shift: expected a number above 0, found -1"):
        StepLora(source="owner/name", shift=-1)


def test_a_step_lora_with_infinity_is_refused_with_its_tensors_name(lightning: Path, tmp_path: Path) -> None:
    tensors = load_file(lightning)
    name = next(name for name in tensors if name.endswith("to_q.lora_up.weight"))
    tensors[name][0, 0] = float("inf")
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError, match=r"to_q.lora_B.weight of .*broken.* has NaN or infinity"):
        StepLora(source=str(tmp_path / "broken.safetensors")).load("QwenImagePipeline")
