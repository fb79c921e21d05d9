"""Gated adapters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from knowcusbench.adapters.gating import openness
from knowcusbench.adapters.lora import attached
from knowcusbench.adapters.types import Adapter, Gate
from knowcusbench.errors import WeightsError

KEYS = torch.eye(8)[:2] * 5
FAR = torch.eye(8)[7:] * 3


def gated(keys: torch.Tensor = KEYS, temperature: float = 0.02, bias: float = 0.5) -> Adapter:
    generator = torch.Generator().manual_seed(0)
    factors = {"0": (torch.randn(2, 8, generator=generator), torch.randn(4, 2, generator=generator))}
    return replace(Adapter.from_factors(factors), gate=Gate({"0": keys}, temperature, bias))


def a_model() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 4)).requires_grad_(False)
    model[0].weight.copy_(torch.arange(32.0).reshape(4, 8) / 32)
    return model


def change(adapter: Adapter, inputs: torch.Tensor) -> torch.Tensor:
    """Return the adapter's contribution to the layer's output."""
    model = a_model()
    plain = model(inputs)
    with attached(model, adapter, torch.float32):
        adapted = model(inputs)
    return adapted - plain


def test_openness_is_the_sigmoid_of_the_highest_cosine() -> None:
    generator = np.random.default_rng(0)
    inputs, keys = generator.normal(size=(5, 8)), generator.normal(size=(3, 8))
    cosines = [[x @ k / (np.linalg.norm(x) * np.linalg.norm(k)) for k in keys] for x in inputs]
    expected = [1 / (1 + np.exp(-(max(row) - 0.3) / 0.1)) for row in cosines]
    found = openness(torch.from_numpy(inputs), torch.from_numpy(keys), temperature=0.1, bias=0.3)
    assert found.shape == (5, 1)
    assert np.allclose(found[:, 0], expected, atol=1e-5)


def test_the_gate_is_open_at_its_keys_whatever_their_length() -> None:
    open_always = replace(gated(), gate=None)
    torch.testing.assert_close(change(gated(), KEYS), change(open_always, KEYS), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(change(gated(), KEYS / 100), change(open_always, KEYS / 100), rtol=1e-5, atol=1e-6)


def test_the_gate_is_closed_far_away() -> None:
    assert change(replace(gated(), gate=None), FAR).abs().max() > 0.1
    assert change(gated(), FAR).abs().max() < 1e-6


def test_every_position_has_a_gate_of_its_own() -> None:
    both = torch.stack([KEYS[0], FAR[0]])[None]
    (found,) = change(gated(), both)
    torch.testing.assert_close(found[0], change(gated(), KEYS[:1])[0])
    assert found[1].abs().max() < 1e-6


def test_a_gate_can_be_set_anew() -> None:
    adapter = gated()
    opened, half = adapter.with_gate(temperature=0.02, bias=-1.0), adapter.with_gate(temperature=0.02, bias=0.0)
    full = change(replace(adapter, gate=None), FAR)
    torch.testing.assert_close(change(opened, FAR), full, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(change(half, FAR), full / 2, rtol=1e-4, atol=1e-5)
    assert adapter.gate is not None
    assert adapter.gate.bias == 0.5


@pytest.mark.parametrize(
    ("adapter", "named"),
    [
        (gated(keys=torch.ones(2, 7)), r"gate's keys of 0 have shape \(2, 7\), expected \(1 or more, 8\)"),
        (gated(keys=torch.ones(0, 8)), "gate's keys of 0"),
        (replace(gated(), gate=Gate({}, 0.1, 0.5)), "gate's keys of 0 have shape None"),
        (gated(temperature=0.0), "temperature"),
    ],
)
def test_a_gate_that_does_not_fit_is_refused_before_anything_changes(adapter: Adapter, named: str) -> None:
    model = a_model()
    before = [id(module) for module in model.modules()]
    with pytest.raises(WeightsError, match=named), attached(model, adapter, torch.float32):
        pass
    assert [id(module) for module in model.modules()] == before


def test_a_gated_adapter_can_not_be_merged() -> None:
    with pytest.raises(ValueError, match="merged"):
        replace(gated(), merged=True)


def test_only_a_gate_can_be_set() -> None:
    with pytest.raises(ValueError, match="no gate"):
        replace(gated(), gate=None).with_gate(temperature=1, bias=0)
