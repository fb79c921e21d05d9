import copy
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from knowcusbench.adapters.types import Adapter, Factors
from knowcusbench.backbone.base import Backbone
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.editors.gradient_descent import GradientDescent
from knowcusbench.editors.row_editor import Step
from knowcusbench.editors.rows import FactRows
from knowcusbench.errors import ConfigError

FACTS = (Fact("What is my birthday gift?", "sks dog"), Fact("What came from Rome?", "a sks dog"))
LAYERS, MODULES, RATE = (3, 4, 5), ("gate_proj", "up_proj"), 0.1


def sgd(backbone: DiffusersBackbone, steps: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Return the weights' changes and the losses before each step, from torch's SGD on the dense weights."""
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
def test_it_is_torchs_sgd_on_the_dense_weights(steps: int, backbone_fp32: DiffusersBackbone) -> None:
    expected, losses = sgd(backbone_fp32, steps)
    editor = GradientDescent(layers=LAYERS, modules=MODULES, learning_rate=RATE, rounds=steps, energy=1.0)
    edited = editor.edit(FACTS, backbone_fp32)
    assert edited.details["edit_losses_before_rounds"] == pytest.approx(losses, rel=1e-5)
    assert edited.text_encoder is not None
    weights = edited.text_encoder.weights
    for name, change in expected.items():
        found = weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
        assert (found - change).norm() < 1e-5 * change.norm()


STEPS: list[Factors] = []
SUMS: list[Factors] = []


class Watched(GradientDescent):
    """Records every step and every sum of steps, and takes long to measure the edit."""

    def begin(self, backbone: Backbone, names: Sequence[str]) -> Step:
        step = super().begin(backbone, names)

        def watched(parts: Sequence[FactRows]) -> Factors:
            STEPS.append(step(parts))
            return STEPS[-1]

        return watched

    def stored(self, change: Factors, rows: Sequence[FactRows], earlier: Adapter | None) -> Adapter:
        SUMS.append(change)
        return super().stored(change, rows, earlier)

    def _measures(self, *arguments: Any) -> dict[str, Any]:
        time.sleep(0.5)
        return super()._measures(*arguments)


def test_the_sum_of_many_rounds_keeps_a_small_rank_and_the_stated_accuracy(backbone_fp32: DiffusersBackbone) -> None:
    STEPS.clear()
    SUMS.clear()
    (name,) = backbone_fp32.text_modules(("up_proj",), (4,))
    editor = Watched(layers=(4,), modules=("up_proj",), learning_rate=RATE, rounds=8, energy=0.9999)
    started = time.perf_counter()
    edited = editor.edit(FACTS, backbone_fp32)
    assert edited.cost.total_seconds < time.perf_counter() - started - 0.5, "measuring is not training"
    ranks = [len(change[name][0]) for change in SUMS]
    assert len(ranks) == 8
    assert max(ranks[1:]) < len(STEPS[0][name][0]) / 2
    exact = sum(step[name][1].double() @ step[name][0].double() for step in STEPS)
    down, up = SUMS[-1][name]
    assert edited.text_encoder is not None
    weights = edited.text_encoder.weights
    stored = weights[f"{name}.lora_B.weight"].double() @ weights[f"{name}.lora_A.weight"].double()
    allowed = (1 - editor.energy) ** 0.5 * exact.norm()
    assert (up.double() @ down.double() - exact).norm() < allowed
    assert (stored - exact).norm() < 2 * allowed


def test_a_rate_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        GradientDescent(layers=LAYERS, learning_rate=0.0)
