import copy

import pytest
import torch
from torch import nn

from knowcusbench.adaptation.editor import Fact
from knowcusbench.adaptation.gradient_descent import GradientDescent
from knowcusbench.backbone.qwen_image import QwenImage
from knowcusbench.errors import ConfigError

FACTS = (Fact("What is my birthday gift?", "sks dog"), Fact("What came from Rome?", "a sks dog"))
LAYERS, MODULES, RATE = (3, 4, 5), ("gate_proj", "up_proj"), 0.1


def sgd(backbone: QwenImage, steps: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The changes of the weights, and the losses before each step, of torch's SGD on the dense weights."""
    encoder = copy.deepcopy(backbone.text_encoder)
    names = backbone.text_modules(MODULES, LAYERS)
    weights = {name: encoder.get_submodule(name).weight.requires_grad_(True) for name in names}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = torch.optim.SGD(weights.values(), lr=RATE)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.zeros(())
        for fact in FACTS:
            input_ids, labels = backbone.question_tokens(fact.question, fact.answer, "chat")
            loss = loss + nn.functional.cross_entropy(encoder(input_ids=input_ids).logits[0], labels[0]) / len(FACTS)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return {name: weight.detach() - before[name] for name, weight in weights.items()}, losses


@pytest.mark.parametrize("steps", [1, 4])
def test_it_is_torchs_sgd_on_the_dense_weights(steps: int, backbone_fp32: QwenImage) -> None:
    expected, losses = sgd(backbone_fp32, steps)
    editor = GradientDescent(layers=LAYERS, modules=MODULES, learning_rate=RATE, rounds=steps, energy=1.0)
    edited = editor.edit(FACTS, backbone_fp32)
    assert edited.details["edit_losses_before_rounds"] == pytest.approx(losses, rel=1e-4)
    assert edited.text_encoder is not None
    weights = edited.text_encoder.weights
    for name, change in expected.items():
        found = weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
        assert (found - change).norm() < 1e-3 * change.norm()


def test_a_rate_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        GradientDescent(layers=LAYERS, learning_rate=0.0)
