"""The sum of adaptations equals applying all of them together."""

import copy
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

from knowcusbench.adapters.lora import attached
from knowcusbench.adapters.sums import factors_of, sum_of_adapters, summed
from knowcusbench.adapters.types import Adaptation, Adapter, Cost, Gate
from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.errors import MethodError


def adapter(model: nn.Module, modules: tuple[str, ...], rank: int, alpha: float, seed: int) -> Adapter:
    """Return a random LoRA whose scaling is not one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name in modules:
        linear = model.get_submodule(name)
        weights[f"{name}.lora_A.weight"] = torch.randn(rank, linear.in_features, generator=generator)
        weights[f"{name}.lora_B.weight"] = 0.1 * torch.randn(linear.out_features, rank, generator=generator)
    return Adapter(weights, {"r": rank, "lora_alpha": alpha, "target_modules": list(modules)})


def dense(model: nn.Module, *adapters: Adapter) -> nn.Module:
    """Return a copy of the model with the adapters added to its weights, module by module."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for one in adapters:
            for name in one.config["target_modules"]:
                down, up = one.weights[f"{name}.lora_A.weight"], one.weights[f"{name}.lora_B.weight"]
                changed.get_submodule(name).weight += one.config["lora_alpha"] / one.config["r"] * up @ down
    return changed


@pytest.fixture
def adaptations(backbone_fp32: DiffusersBackbone) -> list[Adaptation]:
    """Two adaptations of different ranks and scalings that share some modules; one has a text-encoder adapter alone."""
    text, transformer = backbone_fp32.text_encoder, backbone_fp32.transformer
    gates = backbone_fp32.text_modules(["gate_proj"], [0, 1])
    return [
        Adaptation(adapter(transformer, backbone_fp32.lora_targets[:3], 2, 4, 1), adapter(text, gates, 3, 3, 2)),
        Adaptation(None, adapter(text, gates[1:], 2, 1, 3)),
        Adaptation(adapter(transformer, backbone_fp32.lora_targets[2:5], 3, 1, 4), None),
    ]


@torch.no_grad()
def test_the_text_encoder_answers_as_with_all_of_them(
    backbone_fp32: DiffusersBackbone, adaptations: list[Adaptation]
) -> None:
    tokens = torch.tensor([[3, 14, 15, 92, 65, 35]])
    changed = dense(backbone_fp32.text_encoder, *(a.text_encoder for a in adaptations if a.text_encoder))
    expected = changed(input_ids=tokens).logits
    base = backbone_fp32.language_logits(tokens)
    with backbone_fp32.adapted(summed(adaptations)):
        found = backbone_fp32.language_logits(tokens)
    assert (expected - base).abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_transformer_draws_as_with_all_of_them(
    backbone_fp32: DiffusersBackbone, adaptations: list[Adaptation], monkeypatch: pytest.MonkeyPatch
) -> None:
    embeds: PromptEmbeds = backbone_fp32.encode("a red star")
    noise = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(5))
    sigma = torch.tensor([0.7])
    changed = dense(backbone_fp32.transformer, *(a.transformer for a in adaptations if a.transformer))
    base = backbone_fp32.velocity(noise, sigma, embeds)
    with backbone_fp32.adapted(summed([Adaptation(a.transformer) for a in adaptations])):
        found = backbone_fp32.velocity(noise, sigma, embeds)
    monkeypatch.setattr(backbone_fp32._pipeline, "transformer", changed)
    expected = backbone_fp32.velocity(noise, sigma, embeds)
    assert (expected - base).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_sum_of_nothing_adapts_nothing() -> None:
    assert summed([Adaptation(), Adaptation()]) == Adaptation()


def test_what_is_of_different_kinds_is_refused(adaptations: list[Adaptation]) -> None:
    plain = adaptations[1].text_encoder
    assert plain
    gate = Gate({module: torch.ones(1, 4) for module in plain.config["target_modules"]}, 0.1, 0.5)
    others = [replace(plain, merged=True), replace(plain, gate=gate), replace(plain, gate=replace(gate, bias=0.6))]
    for one, other in combinations([plain, *others], 2):
        with pytest.raises(MethodError, match=r"effects\.interference=false"):
            summed([Adaptation(text_encoder=one), Adaptation(text_encoder=other)])


def small(seed: int, key: torch.Tensor | None = None) -> Adapter:
    """Return a random LoRA of rank 2 on a linear layer 8 -> 4, gated if it has a key."""
    lora = adapter(nn.Sequential(nn.Linear(8, 4)), ("0",), 2, 3, seed)
    return lora if key is None else replace(lora, gate=Gate({"0": key[None]}, 0.02, 0.5))


def changes(lora: Adapter, inputs: torch.Tensor) -> torch.Tensor:
    """Return an adapter's contribution to the output of a layer."""
    layer = nn.Sequential(nn.Linear(8, 4, bias=False)).requires_grad_(False)
    layer[0].weight.copy_(torch.linspace(-1, 1, 32).reshape(4, 8))
    plain = layer(inputs)
    with attached(layer, lora, torch.float32):
        return layer(inputs) - plain


def test_in_a_sum_every_gate_opens_for_its_own_adapter() -> None:
    inputs = torch.eye(8)[:3]
    one, other = small(1, inputs[0]), small(2, inputs[1])
    both = summed([Adaptation(text_encoder=one), Adaptation(text_encoder=other)]).text_encoder
    assert both
    expected = changes(one, inputs) + changes(other, inputs)
    assert expected[:2].abs().amin(dim=0).min() > 1e-3
    torch.testing.assert_close(changes(both, inputs), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(changes(both, inputs)[0], changes(replace(one, gate=None), inputs)[0])


def test_a_sum_of_gated_sums_has_the_gates_of_all() -> None:
    inputs = torch.eye(8)[:3]
    parts = [Adaptation(text_encoder=small(seed, inputs[seed])) for seed in range(3)]
    flat, nested = summed(parts), summed([summed(parts[:2]), parts[2]])
    assert flat.text_encoder
    assert nested.text_encoder
    torch.testing.assert_close(changes(nested.text_encoder, inputs), changes(flat.text_encoder, inputs))


def test_merged_adapters_are_merged_together() -> None:
    one, other = (replace(small(seed), merged=True) for seed in (1, 2))
    both = summed([Adaptation(text_encoder=one), Adaptation(text_encoder=other)]).text_encoder
    assert both
    assert both.merged
    inputs = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    expected = changes(replace(one, merged=False), inputs) + changes(replace(other, merged=False), inputs)
    torch.testing.assert_close(changes(both, inputs), expected, atol=1e-5, rtol=1e-5)


def test_costs_add_up(adaptations: list[Adaptation]) -> None:
    paid = [Adaptation(cost=Cost({"visual": 2.0}, 5)), Adaptation(cost=Cost({"visual": 1.0, "textual": 4.0}, 3))]
    assert summed(paid).cost == Cost({"visual": 3.0, "textual": 4.0}, 5)


def test_a_sum_lies_where_the_first_adapter_does() -> None:
    one, other = small(1), small(2)
    half = Adapter({name: tensor.half() for name, tensor in one.weights.items()}, one.config)
    both = sum_of_adapters([half, other])
    assert both
    assert {tensor.dtype for tensor in both.weights.values()} == {torch.float16}
    (down, up), (first, one_up), (second, other_up) = (factors_of(lora)["0"] for lora in (both, one, other))
    torch.testing.assert_close(up.float() @ down.float(), one_up @ first + other_up @ second, atol=1e-2, rtol=1e-2)
