import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.class_images import RECORD, class_seeds
from knowcusbench.adaptation.dreambooth import DreamBooth
from knowcusbench.adapters.lora import extract, trainable
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Concept
from knowcusbench.errors import ConfigError, MethodError
from knowcusbench.storage.images import read_image


def dreambooth(**changes: Any) -> DreamBooth:
    settings = {"steps": 3, "learning_rate": 1e-3, "rank": 2, "alpha": 2}
    return DreamBooth(**{**settings, **changes})


def flat(adaptation: Adaptation) -> torch.Tensor:
    assert adaptation.transformer is not None
    return torch.cat([tensor.flatten() for _, tensor in sorted(adaptation.transformer.weights.items())])


@pytest.fixture
def cube(tmp_path: Path) -> Concept:
    """A concept with one small image."""
    pixels = np.zeros((48, 40, 3), np.uint8)
    pixels[8:40, 8:32] = (220, 60, 20)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    return Concept("cube", "cube", (tmp_path / "0.png",), (), (), images_digest="cube")


@torch.no_grad()
def fixed_loss(backbone: DiffusersBackbone, concept: Concept, prompt: str) -> float:
    """Return the objective in fp64 at many fixed noises and levels, computed independently."""
    posterior = backbone.encode_images([read_image(path) for path in concept.images])
    generator = torch.Generator().manual_seed(99)
    embeds = backbone.encode(prompt)
    losses = []
    for level in np.linspace(0.1, 1.0, 16):
        noise = torch.randn(posterior.mean.shape, generator=generator)
        noisy = (1 - level) * posterior.mean + level * noise
        velocity = backbone.velocity(noisy.float(), torch.full((len(noise),), level).float(), embeds)
        error = velocity.double() - (noise - posterior.mean).double()
        losses.append(float(error.square().mean()))
    return float(np.mean(losses))


def test_training_lowers_the_loss_of_the_concept(
    backbone_fp32: DiffusersBackbone, cube: Concept, cache: AdapterCache
) -> None:
    before = fixed_loss(backbone_fp32, cube, "sks cube")
    trainer = dreambooth(steps=40, learning_rate=5e-3, rank=8, alpha=8, batch_size=4)
    with backbone_fp32.adapted(trainer.fit(cube, backbone_fp32, "sks cube", cache)):
        after = fixed_loss(backbone_fp32, cube, "sks cube")
    assert after < 0.85 * before


def test_noise_levels_are_in_the_key_where_they_are_not_uniform(
    backbone: DiffusersBackbone, cube: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    uniform = dreambooth()._key(cube, backbone, "sks cube")
    monkeypatch.setattr(backbone, "noise_shift", 6.0)
    assert dreambooth()._key(cube, backbone, "sks cube") == uniform | {"noise_shift": 6.0}
    assert "noise_shift" not in uniform


def test_the_backbone_is_left_as_it_was(backbone_fp32: DiffusersBackbone, cube: Concept, cache: AdapterCache) -> None:
    before = fixed_loss(backbone_fp32, cube, "sks cube")
    dreambooth(prior_images=1).fit(cube, backbone_fp32, "sks cube", cache)
    backbone_fp32.check_intact()
    assert fixed_loss(backbone_fp32, cube, "sks cube") == before
    assert not any(parameter.requires_grad for parameter in backbone_fp32.transformer.parameters())


def test_the_adapter_is_a_lora_of_the_attention_projections(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache
) -> None:
    learned = dreambooth(rank=3, alpha=6).fit(cube, backbone, "sks cube", cache)
    assert learned.text_encoder is None
    assert learned.transformer is not None
    assert set(learned.transformer.config["target_modules"]) == set(backbone.lora_targets)
    assert (learned.transformer.config["r"], learned.transformer.config["lora_alpha"]) == (3, 6)
    assert all(tensor.dtype == torch.float32 for tensor in learned.transformer.weights.values())
    assert learned.cost.seconds.keys() == {"visual"}


def test_the_lora_is_on_the_target_modules(backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache) -> None:
    chosen = dreambooth(target_modules=("add_k_proj", "transformer_blocks.1.txt_mlp.net.2"))
    learned = chosen.fit(cube, backbone, "sks cube", cache).transformer
    assert learned is not None
    blocks = len(backbone.transformer.transformer_blocks)
    assert set(learned.config["target_modules"]) == {
        "transformer_blocks.1.txt_mlp.net.2",
        *(f"transformer_blocks.{block}.attn.add_k_proj" for block in range(blocks)),
    }
    with pytest.raises(ConfigError, match="add_keys"):
        dreambooth(target_modules=("add_keys",)).fit(cube, backbone, "sks cube", cache)


def test_small_steps_are_not_lost_on_a_bf16_backbone(
    backbone_bf16: DiffusersBackbone, cube: Concept, cache: AdapterCache
) -> None:
    """lora_A starts around 0.5, where bf16 numbers are 2e-3 apart: steps of 1e-5 would vanish."""
    with trainable(backbone_bf16.transformer, backbone_bf16.lora_targets, 2, 2, seed=42, init="gaussian"):
        start = extract(backbone_bf16.transformer)
    learned = dreambooth(learning_rate=1e-5, steps=4).fit(cube, backbone_bf16, "sks cube", cache)
    assert learned.transformer is not None
    for name, tensor in learned.transformer.weights.items():
        moved = (tensor - start.weights[name]).abs()
        assert 0 < moved.max() < 5e-5
        assert (moved > 0).float().mean() > 0.9


def test_the_first_step_is_adamws(backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache) -> None:
    """Check both factors after one step.

    Adam's first step moves an entry of lora_B, which starts at zero, by the learning rate (less where the gradient is
    as small as Adam's epsilon). lora_A only decays: its gradient is zero as long as lora_B is.
    """
    with trainable(backbone.transformer, backbone.lora_targets, 2, 2, seed=42, init="gaussian"):
        start = extract(backbone.transformer)
    learned = dreambooth(steps=1, weight_decay=0.5).fit(cube, backbone, "sks cube", cache).transformer
    assert learned is not None
    for name, tensor in learned.weights.items():
        if "lora_A" in name:
            assert torch.allclose(tensor, start.weights[name] * (1 - 1e-3 * 0.5), rtol=1e-6)
        else:
            assert tensor.abs().median().item() == pytest.approx(1e-3, rel=0.05)


def test_large_gradients_are_clipped(backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache) -> None:
    """Gradients clipped to far below Adam's epsilon hardly move anything."""
    learned = dreambooth(steps=1, max_grad_norm=1e-9).fit(cube, backbone, "sks cube", cache).transformer
    assert learned is not None
    for name, tensor in learned.weights.items():
        if "lora_B" in name:
            assert 0 < tensor.abs().max() < 1e-4


def test_noise_follows_the_seed(backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache) -> None:
    """The first step's loss depends on posterior, noise and level alone, since the LoRA still does nothing."""
    losses = {
        dreambooth(steps=1, seed=seed).fit(cube, backbone, "sks cube", cache).details["dreambooth_loss"]
        for seed in (1, 2, 3)
    }
    assert len(losses) == 3


def test_the_seed_alone_decides(backbone: DiffusersBackbone, cube: Concept, tmp_path: Path) -> None:
    results = []
    for index, (seed, state_of_the_world) in enumerate([(1, 10), (1, 20), (2, 20)]):
        with torch.random.fork_rng():
            torch.manual_seed(state_of_the_world)
            before = torch.get_rng_state()
            cache = AdapterCache(tmp_path / str(index))
            results.append(flat(dreambooth(seed=seed).fit(cube, backbone, "sks cube", cache)))
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_same_request_is_trained_once(backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache) -> None:
    first = dreambooth().fit(cube, backbone, "sks cube", cache)
    second = dreambooth().fit(replace(cube, name="another name"), backbone, "sks cube", cache)
    assert second.cost == first.cost
    assert torch.equal(flat(second), flat(first))
    assert len(list(cache.directory.iterdir())) == 1


def test_whatever_changes_the_result_has_an_entry_of_its_own(
    backbone: DiffusersBackbone,
    backbone_bf16: DiffusersBackbone,
    backbone_fp32: DiffusersBackbone,
    cube: Concept,
    cache: AdapterCache,
) -> None:
    one_step = dreambooth(steps=1)
    other_dtype = backbone_fp32 if backbone.spec.dtype == "bfloat16" else backbone_bf16
    other_size = replace(backbone.spec, height=32).load()
    requests = [
        (one_step, cube, backbone, "sks cube"),
        (one_step, cube, backbone, "my gift"),
        (one_step, replace(cube, images_digest="other pictures"), backbone, "sks cube"),
        (one_step, cube, other_dtype, "sks cube"),
        (one_step, cube, other_size, "sks cube"),
        *(
            (replace(one_step, **change), cube, backbone, "sks cube")
            for change in (
                {"steps": 2},
                {"learning_rate": 2e-3},
                {"rank": 3},
                {"alpha": 3.0},
                {"init": "uniform"},
                {"batch_size": 2},
                {"weight_decay": 0.1},
                {"max_grad_norm": 0.1},
                {"seed": 7},
                {"decay": True},
                {"contexts": ("a photo of {}",)},
                {"prompt_noise": 0.1},
                {"adam_beta2": 0.9},
                {"prior_images": 1},
                {"prior_images": 1, "prior_weight": 0.5},
                {"prior_images": 1, "prior_every": 2},
                {"prior_images": 1, "prior_prompts": ("a photo of a {}",)},
            )
        ),
        (replace(one_step, prior_images=1), replace(cube, class_noun="toy"), backbone, "sks cube"),
        (replace(one_step, contexts=("{token}",)), cube, backbone, "sks cube"),
        (replace(one_step, contexts=("{token}",)), replace(cube, class_noun="toy"), backbone, "sks cube"),
        *(
            (replace(one_step, prior_images=1), cube, replace(backbone.spec, **change).load(), "sks cube")
            for change in ({"steps": 2}, {"true_cfg_scale": 2.0}, {"negative_prompt": "blurred"})
        ),
    ]
    for trainer, concept, model, prompt in requests:
        trainer.fit(concept, model, prompt, cache)
    assert len(list(cache.directory.iterdir())) == len(requests)


def test_without_prior_preservation_neither_class_noun_nor_sampling_matter(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache
) -> None:
    dreambooth(steps=1).fit(cube, backbone, "sks cube", cache)
    dreambooth(steps=1).fit(replace(cube, class_noun="toy"), backbone, "sks cube", cache)
    dreambooth(steps=1).fit(cube, replace(backbone.spec, steps=2).load(), "sks cube", cache)
    assert len(list(cache.directory.iterdir())) == 1


class ListeningBackbone:
    """The real backbone, recording sampled prompts and seeds, and the batch sizes and prompts of its training."""

    def __init__(self, backbone: DiffusersBackbone) -> None:
        self._backbone = backbone
        self.sampled: list[tuple[torch.Tensor, list[int]]] = []
        self.trained: list[tuple[int, torch.Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def sample(self, prompt_embeds: PromptEmbeds, noise_seeds: Sequence[int]) -> list[Image.Image]:
        self.sampled.append((prompt_embeds.embeds, list(noise_seeds)))
        return self._backbone.sample(prompt_embeds, noise_seeds)

    def velocity(self, noisy: torch.Tensor, sigma: torch.Tensor, prompt_embeds: PromptEmbeds) -> torch.Tensor:
        self.trained.append((len(noisy), prompt_embeds.embeds))
        return self._backbone.velocity(noisy, sigma, prompt_embeds)


def test_prior_preservation_trains_on_own_images_of_the_class_noun_in_every_step(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache
) -> None:
    listening = ListeningBackbone(backbone)
    dreambooth(steps=2, batch_size=2, prior_images=3).fit(cube, listening, "sks cube", cache)
    ((drawn, seeds),) = listening.sampled
    assert torch.equal(drawn, backbone.encode("cube").embeds)
    assert seeds == class_seeds("cube", 3)
    expect_prompts(listening, ["sks cube", "cube", "sks cube", "cube"])


def expect_prompts(listening: ListeningBackbone, prompts: Sequence[str]) -> None:
    for (count, found), prompt in zip(listening.trained, prompts, strict=True):
        assert count == 2
        assert torch.equal(found, listening.encode(prompt).embeds)


def test_prior_prompts_share_the_class_images_and_take_turns(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache
) -> None:
    listening = ListeningBackbone(backbone)
    prompts = ("a photo of a {}", "a boat")
    dreambooth(steps=3, batch_size=2, prior_images=3, prior_prompts=prompts).fit(cube, listening, "sks cube", cache)
    one, other = "a photo of a cube", "a boat"
    for (drawn, seeds), prompt, count in zip(listening.sampled, (one, other), (2, 1), strict=True):
        assert torch.equal(drawn, backbone.encode(prompt).embeds)
        assert seeds == class_seeds(prompt, count)
    expect_prompts(listening, ["sks cube", one, "sks cube", other, "sks cube", one])


def test_class_images_take_part_in_every_second_step(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache
) -> None:
    listening = ListeningBackbone(backbone)
    prior = {"prior_images": 2, "prior_prompts": ("{}", "a boat"), "prior_every": 2}
    trainer = dreambooth(steps=5, batch_size=2, contexts=("{}", "a photo of {}"), **prior)
    trainer.fit(cube, listening, "sks cube", cache)
    one, other = "sks cube", "a photo of sks cube"
    expect_prompts(listening, [one, "cube", other, one, "a boat", other, one, "cube"])
    assert trainer.training_passes == 2 * len(listening.trained)


def test_the_instance_prompt_stands_in_each_context_in_turn(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache
) -> None:
    listening = ListeningBackbone(backbone)
    contexts = ("{}", "a photo of {}", "a {token} thing")
    dreambooth(steps=4, batch_size=2, contexts=contexts).fit(cube, listening, "sks cube", cache)
    expect_prompts(listening, ["sks cube", "a photo of sks cube", "a sks thing", "sks cube"])


def test_noise_is_on_the_instance_prompts_embeddings_alone_and_new_in_every_step(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache
) -> None:
    listening = ListeningBackbone(backbone)
    dreambooth(steps=2, batch_size=2, prior_images=1, prompt_noise=0.5).fit(cube, listening, "sks cube", cache)
    plain = backbone.encode("sks cube").embeds.float()
    first, prior, second, _ = (embeds.float() for _, embeds in listening.trained)
    assert torch.equal(prior, backbone.encode("cube").embeds.float())
    for embeds in (first, second):
        moved = (embeds - plain) / plain.std()
        assert moved.std() == pytest.approx(0.5, rel=0.1)
        assert moved.mean() == pytest.approx(0, abs=0.05)
    assert not torch.equal(first, second)


def test_a_decaying_rate_falls_linearly_to_zero(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = watched(monkeypatch, "lr")
    dreambooth(steps=4, learning_rate=8e-3, decay=True).fit(cube, backbone, "sks cube", cache)
    dreambooth(steps=2, learning_rate=8e-3).fit(cube, backbone, "sks cube", cache)
    assert rates == pytest.approx([8e-3, 6e-3, 4e-3, 2e-3, 8e-3, 8e-3])


def test_adams_memory_of_squared_gradients_can_be_set(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    betas = watched(monkeypatch, "betas")
    dreambooth(steps=1).fit(cube, backbone, "sks cube", cache)
    dreambooth(steps=1, adam_beta2=0.95).fit(cube, backbone, "sks cube", cache)
    assert betas == [(0.9, 0.999), (0.9, 0.95)]


def watched(monkeypatch: pytest.MonkeyPatch, option: str) -> list[Any]:
    """Return a list that collects the value of AdamW's option in every further step."""
    found = []

    class Watched(torch.optim.AdamW):
        def step(self, *arguments: Any) -> Any:
            found.append(self.param_groups[0][option])
            return super().step(*arguments)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    return found


def test_class_images_are_drawn_for_the_first_concept_and_paid_by_all(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache
) -> None:
    listening = ListeningBackbone(backbone)
    trainer = dreambooth(steps=1, prior_images=2, prior_prompts=("{}", "a boat"))
    trainer.fit(cube, listening, "sks cube", cache)
    other = replace(cube, name="other", class_noun="boat", images_digest="other")
    for record in cache.class_images.directory.glob(f"*/{RECORD}"):
        record.write_text(json.dumps({"seconds": 1000.0}))
    cost = trainer.fit(other, listening, "sks boat", cache).cost
    drawn = [backbone.encode(prompt).embeds for prompt in ("cube", "a boat", "boat")]
    assert all(torch.equal(found, wanted) for (found, _), wanted in zip(listening.sampled, drawn, strict=True))
    assert 1000 < cost.total_seconds < 1100


def test_class_images_from_the_cache_train_the_same_weights(
    backbone: DiffusersBackbone, cube: Concept, tmp_path: Path
) -> None:
    trainer = dreambooth(steps=2, prior_images=2)
    cache, fresh = AdapterCache(tmp_path / "one"), AdapterCache(tmp_path / "other")
    replace(trainer, learning_rate=0.5).fit(cube, backbone, "sks cube", cache)
    assert torch.equal(*(flat(trainer.fit(cube, backbone, "sks cube", it)) for it in (cache, fresh)))


def test_a_concept_without_images_is_named(backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache) -> None:
    with pytest.raises(MethodError, match="cube"):
        dreambooth().fit(replace(cube, images=()), backbone, "sks cube", cache)


def test_the_release_is_used_instead_when_asked(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache, tmp_path: Path
) -> None:
    name = backbone.lora_targets[0]
    factors = {"lora_A.weight": torch.full((1, 128), 2.0), "lora_B.weight": torch.ones(128, 1)}
    state = {f"transformer.{name}.{ending}": tensor for ending, tensor in factors.items()}
    (tmp_path / "released").mkdir()
    save_file(state, tmp_path / "released" / "pytorch_lora_weights.safetensors")

    released = replace(cube, visual_checkpoint=tmp_path / "released")
    learned = dreambooth(use_released=True).fit(released, backbone, "sks cube", cache)

    assert isinstance(learned.transformer, Adapter)
    assert torch.equal(learned.transformer.weights[f"{name}.lora_A.weight"], factors["lora_A.weight"])
    assert not cache.directory.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"rank": 0},
        {"batch_size": 0},
        {"prior_images": -1},
        {"prior_every": 0},
        {"contexts": ()},
        {"contexts": ("{}", "a photo")},
        {"adam_beta2": 1.0},
        {"prompt_noise": -0.1},
        {"prompt_noise": math.nan},
        {"prior_prompts": ()},
        {"prior_prompts": ("{}", "a {}"), "prior_images": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        dreambooth(**wrong)


def test_a_training_that_diverges_ends_with_concept_and_step_and_nothing_is_kept(
    backbone: DiffusersBackbone, cube: Concept, cache: AdapterCache
) -> None:
    with pytest.raises(MethodError, match=r"'cube': loss is not finite at step 2; lower recipe\.dreambooth\.learning"):
        dreambooth(learning_rate=1e30).fit(cube, backbone, "sks toy", cache)
    assert not list(cache.directory.glob("*"))
    backbone.check_intact()
