"""Sums of adaptations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from knowcusbench.adapters.types import Adaptation, Adapter, Cost, Gate
from knowcusbench.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor


def summed(adaptations: Sequence[Adaptation]) -> Adaptation:
    """Return the adaptation whose change of every weight is the sum of the given ones; costs are added.

    Raises MethodError for adapters of different kinds (merged or not, gated or not).
    """
    return Adaptation(
        transformer=_sum([a.transformer for a in adaptations if a.transformer]),
        text_encoder=_sum([a.text_encoder for a in adaptations if a.text_encoder]),
        cost=sum((a.cost for a in adaptations), Cost()),
    )


def _sum(adapters: Sequence[Adapter]) -> Adapter | None:
    """Concatenate the factors, which is exact: `B1 A1 + B2 A2 = [B1 B2] [A1; A2]`. Ranks add up."""
    import torch

    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for adapter in adapters:
        for module, factors in factors_of(adapter).items():
            parts.setdefault(module, []).append(factors)
    if not parts:
        return None
    kinds = {(adapter.merged, adapter.gate and (adapter.gate.temperature, adapter.gate.bias)) for adapter in adapters}
    if len(kinds) > 1:
        raise MethodError(
            "adapters that are merged into weights or have a gate can only be applied together with their like; "
            "effects.interference=false leaves that out"
        )
    whole = Adapter.from_factors(
        {
            module: (torch.cat([down for down, _ in pairs]), torch.cat([up for _, up in pairs], dim=1))
            for module, pairs in parts.items()
        }
    )
    return replace(whole, merged=adapters[0].merged, gate=_gates(parts, [a.gate for a in adapters if a.gate]))


def _gates(parts: Mapping[str, Sequence[tuple[Tensor, Tensor]]], gates: Sequence[Gate]) -> Gate | None:
    """Return one gate in which each adapter's keys gate its own ranks."""
    if not gates:
        return None
    import torch

    keys: dict[str, Tensor] = {}
    own: dict[str, tuple[tuple[int, int], ...]] = {}
    for module, pairs in parts.items():
        having = [gate for gate in gates if module in gate.keys]
        keys[module] = torch.cat([gate.keys[module] for gate in having])
        own[module] = tuple(
            part
            for gate, (down, _) in zip(having, pairs, strict=True)
            for part in gate.parts.get(module, ((len(down), len(gate.keys[module])),))
        )
    return replace(gates[0], keys=keys, parts=own)


def factors_of(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """Return factors `(down, up)` by module with a scaling of one: the adapter adds `up @ down` to the weight.

    >>> import torch
    >>> adapter = Adapter.from_factors({"proj": (torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]))})
    >>> down, up = factors_of(adapter)["proj"]
    >>> up @ down
    tensor([[3., 6.],
            [4., 8.]])
    """
    config = adapter.config
    factors = {}
    for module in config["target_modules"]:
        down, up = (adapter.weights[f"{module}.{factor}.weight"] for factor in ("lora_A", "lora_B"))
        alpha = config.get("alpha_pattern", {}).get(module, config["lora_alpha"])
        factors[module] = (down, up * (alpha / down.shape[0]))
    return factors
