from typing import Any

import pytest
import torch
from torch import nn

from knowcusbench.adaptation.editor import Fact
from knowcusbench.adaptation.encoder_tuning import EncoderTuning
from knowcusbench.backbone.base import Backbone
from knowcusbench.backbone.qwen_image import QwenImage
from knowcusbench.errors import ConfigError

FACTS = (Fact("What is my birthday gift?", "sks dog"), Fact("What came from Rome?", "sks dog"))


def tuning(**changes: Any) -> EncoderTuning:
    settings = {
        "steps": 4,
        "learning_rate": 1e-3,
        "rank": 2,
        "alpha": 2,
        "modules": ("q_proj", "up_proj"),
    }
    return EncoderTuning(**{**settings, **changes})


@torch.no_grad()
def mean_loss(backbone: Backbone) -> float:
    losses = []
    for fact in FACTS:
        input_ids, labels = backbone.question_tokens(fact.question, fact.answer, "chat")
        logits = backbone.language_logits(input_ids)[0].float()
        losses.append(nn.functional.cross_entropy(logits, labels[0]))
    return float(torch.stack(losses).mean())


def test_the_answers_become_likelier(backbone_fp32: QwenImage) -> None:
    before = mean_loss(backbone_fp32)
    tuned = tuning().fit(FACTS, backbone_fp32)
    with backbone_fp32.adapted(tuned):
        after = mean_loss(backbone_fp32)
    assert tuned.details["encoder_tuning_first_loss"] == pytest.approx(before, rel=1e-5)
    assert after < tuned.details["encoder_tuning_last_loss"] < before


def test_the_first_step_is_adamws(backbone_fp32: QwenImage) -> None:
    """Adam's first step moves an entry of lora_B, which starts at zero, by the learning rate (less where the
    gradient is as small as Adam's epsilon); lora_A, without a gradient as long as lora_B is zero, decays."""
    tuned = tuning(steps=1, weight_decay=0.5).fit(FACTS, backbone_fp32)
    assert tuned.text_encoder is not None
    for name, tensor in tuned.text_encoder.weights.items():
        if "lora_B" in name:
            assert tensor.abs().median().item() == pytest.approx(1e-3, rel=1e-2)
            assert tensor.abs().max().item() <= 1e-3 * (1 + 1e-5)
        else:
            bound = (1 - 1e-3 * 0.5) / tensor.shape[1] ** 0.5
            assert 0.9 * bound < tensor.abs().max() <= bound


def test_named_modules_of_all_layers_are_tuned_by_default(backbone_fp32: QwenImage) -> None:
    tuned = tuning(steps=1).fit(FACTS, backbone_fp32)
    assert tuned.transformer is None
    assert tuned.text_encoder is not None
    assert len(tuned.text_encoder.config["target_modules"]) == 2 * backbone_fp32.layer_count


def test_layers_can_be_chosen(backbone_fp32: QwenImage) -> None:
    tuned = tuning(steps=1, layers=(4,), modules=("gate_proj",)).fit(FACTS, backbone_fp32)
    assert tuned.text_encoder is not None
    assert tuned.text_encoder.config["target_modules"] == ["model.language_model.layers.4.mlp.gate_proj"]


def test_the_backbone_is_left_as_it_was(backbone_fp32: QwenImage) -> None:
    before = backbone_fp32.encode("sks dog").embeds
    tuning().fit(FACTS, backbone_fp32)
    backbone_fp32.check_intact()
    assert torch.equal(backbone_fp32.encode("sks dog").embeds, before)
    assert not any(parameter.requires_grad for parameter in backbone_fp32.text_encoder.parameters())


def test_the_seed_alone_decides(backbone_fp32: QwenImage) -> None:
    results = []
    for seed, state_of_the_world in [(1, 10), (1, 20), (2, 20)]:
        with torch.random.fork_rng():
            torch.manual_seed(state_of_the_world)
            adapter = tuning(seed=seed).fit(FACTS, backbone_fp32).text_encoder
        assert adapter is not None
        results.append(torch.cat([tensor.flatten() for tensor in adapter.weights.values()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"rank": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        tuning(**wrong)
