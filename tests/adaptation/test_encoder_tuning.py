from typing import Any

import pytest
import torch
from torch import nn

from knowcusbench.adaptation.encoder_tuning import EncoderTuning
from knowcusbench.adapters.lora import extract, trainable
from knowcusbench.backbone.base import Backbone
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.errors import ConfigError, MethodError

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


def mean_loss(backbone: Backbone) -> torch.Tensor:
    losses = []
    for fact in FACTS:
        input_ids, labels = backbone.question_tokens(fact.question, fact.answer, "chat")
        logits = backbone.language_logits(input_ids)[0].float()
        losses.append(nn.functional.cross_entropy(logits, labels[0]))
    return torch.stack(losses).mean()


def test_the_answers_become_likelier(backbone_fp32: DiffusersBackbone) -> None:
    before = mean_loss(backbone_fp32).item()
    tuned = tuning().fit(FACTS, backbone_fp32)
    with backbone_fp32.adapted(tuned):
        after = mean_loss(backbone_fp32).item()
    assert tuned.details["encoder_tuning_first_loss"] == pytest.approx(before, rel=1e-5)
    assert after < tuned.details["encoder_tuning_last_loss"] < before


@pytest.mark.parametrize("max_grad_norm", [1e-7, 1.0])
def test_training_is_plain_adamw_on_the_mean_loss(max_grad_norm: float, backbone_fp32: DiffusersBackbone) -> None:
    """Compare with the same training by hand: one graph over all facts, without gradient accumulation.

    Clipping to 1e-7 brings the gradients near Adam's epsilon, where their size matters.
    """
    tuned = tuning(max_grad_norm=max_grad_norm, weight_decay=20.0).fit(FACTS, backbone_fp32).text_encoder
    targets = backbone_fp32.text_modules(("q_proj", "up_proj"), range(backbone_fp32.layer_count))
    with trainable(backbone_fp32.text_encoder, targets, 2, 2, seed=42) as parameters:
        optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, weight_decay=20.0)
        for _ in range(4):
            gradients = torch.autograd.grad(mean_loss(backbone_fp32), list(parameters.values()))
            norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
            for parameter, gradient in zip(parameters.values(), gradients, strict=True):
                parameter.grad = gradient * min(1.0, max_grad_norm / float(norm))
            optimizer.step()
        expected = extract(backbone_fp32.text_encoder)
    assert tuned is not None
    for name, tensor in expected.weights.items():
        assert torch.allclose(tuned.weights[name], tensor, rtol=1e-2, atol=1e-5)


def test_named_modules_of_all_layers_are_tuned_by_default(backbone_fp32: DiffusersBackbone) -> None:
    tuned = tuning(steps=1).fit(FACTS, backbone_fp32)
    assert tuned.transformer is None
    assert tuned.text_encoder is not None
    assert len(tuned.text_encoder.config["target_modules"]) == 2 * backbone_fp32.layer_count


def test_layers_can_be_chosen(backbone_fp32: DiffusersBackbone) -> None:
    tuned = tuning(steps=1, layers=(4,), modules=("gate_proj",)).fit(FACTS, backbone_fp32)
    assert tuned.text_encoder is not None
    assert tuned.text_encoder.config["target_modules"] == ["model.language_model.layers.4.mlp.gate_proj"]


def test_the_backbone_is_left_as_it_was(backbone_fp32: DiffusersBackbone) -> None:
    before = backbone_fp32.encode("sks dog").embeds
    tuning().fit(FACTS, backbone_fp32)
    backbone_fp32.check_intact()
    assert torch.equal(backbone_fp32.encode("sks dog").embeds, before)
    assert not any(parameter.requires_grad for parameter in backbone_fp32.text_encoder.parameters())


def test_the_seed_alone_decides(backbone_fp32: DiffusersBackbone) -> None:
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


def test_a_tuning_that_diverges_ends_with_question_and_step(backbone_fp32: DiffusersBackbone) -> None:
    with pytest.raises(MethodError, match=r"gift\?'.*loss is not finite at step 2; lower recipe\.encoder_tu"):
        tuning(learning_rate=1e30).fit(FACTS, backbone_fp32)
    backbone_fp32.check_intact()
