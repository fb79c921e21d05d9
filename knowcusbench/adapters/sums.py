"""Sums of adaptations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from knowcusbench.adapters.types import Adaptation, Adapter, Cost, Factors, Gate
from knowcusbench.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor


def summed(adaptations: Sequence[Adaptation]) -> Adaptation:
    """Return the adaptation whose change of every weight is the sum of the given ones; costs are added.

    Raises MethodError for adapters of different kinds (merged or not, gated or not).
    """
    return Adaptation(
        transformer=sum_of_adapters([a.transformer for a in adaptations if a.transformer]),
        text_encoder=sum_of_adapters([a.text_encoder for a in adaptations if a.text_encoder]),
        cost=sum((a.cost for a in adaptations), Cost()),
    )


def sum_of_adapters(adapters: Sequence[Adapter]) -> Adapter | None:
    """Return the adapter whose change of every weight is the sum of those of `adapters`; None if there are none.

    It is exact, and ranks add up (`concatenated`). Its factors have the device and dtype of the first adapter's. Raises
    MethodError as `summed` does.
    """
    if not adapters:
        return None
    kinds = {(adapter.merged, adapter.gate and (adapter.gate.temperature, adapter.gate.bias)) for adapter in adapters}
    if len(kinds) > 1:
        raise MethodError(
            "adapters that are merged into weights or have a gate can only be applied together with their like; "
            "effects.interference=false leaves that out"
        )
    parts = [factors_of(adapter) for adapter in adapters]
    whole = Adapter.from_factors(concatenated(parts), like=next(iter(adapters[0].weights.values())))
    return replace(whole, merged=adapters[0].merged, gate=_gates(parts, [a.gate for a in adapters if a.gate]))


def concatenated(parts: Sequence[Factors]) -> Factors:
    """Return the factors of the sum of several changes, side by side: `B1 A1 + B2 A2 = [B1 B2] [A1; A2]`. They lie
    where the first part's do."""
    import torch

    like = next(iter(parts[0].values()))[0]
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for part in parts:
        for module, (down, up) in part.items():
            pairs.setdefault(module, []).append((down.to(like), up.to(like)))
    return {
        module: (torch.cat([down for down, _ in own]), torch.cat([up for _, up in own], dim=1))
        for module, own in pairs.items()
    }


def _gates(parts: Sequence[Factors], gates: Sequence[Gate]) -> Gate | None:
    """Every adapter's gate for its own ranks."""
    if not gates:
        return None
    import torch

    keys: dict[str, Tensor] = {}
    own: dict[str, tuple[tuple[int, int], ...]] = {}
    for module in dict.fromkeys(module for part in parts for module in part):
        having = [(gate, len(part[module][0])) for gate, part in zip(gates, parts, strict=True) if module in part]
        keys[module] = torch.cat([gate.keys[module] for gate, _ in having])
        own[module] = tuple(
            part for gate, rank in having for part in gate.parts.get(module, ((rank, len(gate.keys[module])),))
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
