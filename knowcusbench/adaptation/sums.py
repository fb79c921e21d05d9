"""Several adaptations at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from knowcusbench.adaptation.types import Adaptation, Adapter, Cost
from knowcusbench.errors import MethodError


def summed(adaptations: Sequence[Adaptation]) -> Adaptation:
    """The adaptation whose change of every weight is the sum of those of `adaptations`, their costs added.

    Raises MethodError for an adapter that is more than a LoRA: its effect can't be added to others'.
    """
    return Adaptation(
        transformer=_sum([a.transformer for a in adaptations if a.transformer]),
        text_encoder=_sum([a.text_encoder for a in adaptations if a.text_encoder]),
        cost=sum((a.cost for a in adaptations), Cost()),
    )


def _sum(adapters: Sequence[Adapter]) -> Adapter | None:
    """Exact, since factors stand side by side: `B1 A1 + B2 A2 = [B1 B2] [A1; A2]`. Ranks add up."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for adapter in adapters:
        for module, factors in _factors(adapter).items():
            parts.setdefault(module, []).append(factors)
    if not parts:
        return None
    return Adapter.from_factors(
        {
            module: (torch.cat([down for down, _ in pairs]), torch.cat([up for _, up in pairs], dim=1))
            for module, pairs in parts.items()
        }
    )


def _factors(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors `(down, up)` by module with a scaling of one: `up @ down` is what the adapter adds to the weight."""
    if adapter != Adapter(adapter.weights, adapter.config):
        raise MethodError(
            "an adapter that is merged into weights or has a gate can't be applied together with others; "
            "effects.interference=false leaves that out"
        )
    config = adapter.config
    factors = {}
    for module in config["target_modules"]:
        down, up = (adapter.weights[f"{module}.{factor}.weight"] for factor in ("lora_A", "lora_B"))
        alpha = config.get("alpha_pattern", {}).get(module, config["lora_alpha"])
        factors[module] = (down, up * (alpha / down.shape[0]))
    return factors
