"""LoRA adapters on a resident model through PEFT: attach, train, extract, and remove without a trace."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from knowcusbench.adapters.gating import install_gate
from knowcusbench.adapters.lora_linear import make_lean
from knowcusbench.adapters.merging import merged
from knowcusbench.adapters.sums import factors_of
from knowcusbench.adapters.types import Adapter, Gate, Initialization
from knowcusbench.errors import ConfigError, WeightsError

NAME = "default"
"""PEFT's name for the one adapter that a model carries at a time."""

_ADAPTED: WeakSet[nn.Module] = WeakSet()
"""Models that carry an adapter now."""

FACTORS = ("lora_A", "lora_B")

CONFIG_FIELDS = {"r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern"}
"""Fields of `LoraConfig` that an adapter may set: a plain LoRA on modules given by full name."""


@contextmanager
def attached(model: nn.Module, adapter: Adapter, dtype: torch.dtype) -> Iterator[None]:
    """Attach `adapter` to `model` for the duration of the block.

    The factors and their products are in `dtype`. A merged adapter is added to the weights instead, rounded to their
    dtype.

    Raises WeightsError, before anything is changed, if the adapter does not fit the model, and RuntimeError if the
    model carries an adapter already.
    """
    ranks, alphas = check_fit(model, adapter)
    if adapter.merged:
        with _exclusive(model), merged(model, factors_of(adapter)):
            yield
        return
    with _injected(model, ranks, alphas) as layers:
        for module, layer in layers.items():
            for factor in FACTORS:
                value = adapter.weights[f"{module}.{factor}.weight"]
                _set_factor(layer, factor, value.to(dtype=dtype, copy=True), trainable=False)
            if adapter.gate:
                install_gate(layer, NAME, adapter.gate, module)
            else:
                make_lean(layer, dtype)
        yield


@contextmanager
def trainable(
    model: nn.Module,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    seed: int,
    init: Initialization = "uniform",
    *,
    dtype: torch.dtype | None = None,
) -> Iterator[dict[str, nn.Parameter]]:
    """Attach a new LoRA to the linear layers `targets` (full names) and yield its parameters by name.

    The parameters are fp32 whatever the model's dtype: steps of a small learning rate vanish in bf16. Products are
    computed in `dtype`, the one that `attached` will use: fp32, or None for the layers' own. `lora_A` is drawn
    according to `init` by a generator of its own; `lora_B` is zero. Raises RuntimeError if the model carries an adapter
    already.
    """
    generator = torch.Generator().manual_seed(seed)
    with _injected(model, dict.fromkeys(targets, rank), dict.fromkeys(targets, alpha)) as layers:
        parameters = {}
        for module, layer in layers.items():
            make_lean(layer, dtype)
            down = torch.empty(rank, layer.in_features)
            if init == "gaussian":
                down.normal_(std=1 / rank, generator=generator)
            else:
                bound = 1 / math.sqrt(layer.in_features)
                down.uniform_(-bound, bound, generator=generator)
            for factor, value in zip(FACTORS, (down, torch.zeros(layer.out_features, rank)), strict=True):
                parameters[f"{module}.{factor}"] = _set_factor(layer, factor, value, trainable=True)
        yield parameters


def extract(model: nn.Module) -> Adapter:
    """Return the adapter on `model` as new fp32 CPU tensors."""
    layers = _lora_layers(model)
    weights = {
        f"{module}.{factor}.weight": getattr(layer, factor)[NAME].weight.detach().to("cpu", torch.float32, copy=True)
        for module, layer in layers.items()
        for factor in FACTORS
    }
    ranks = {module: layer.r[NAME] for module, layer in layers.items()}
    alphas = {module: layer.lora_alpha[NAME] for module, layer in layers.items()}
    config = {"r": max(ranks.values()), "lora_alpha": max(alphas.values()), "target_modules": list(layers)}
    if len(set(ranks.values())) > 1 or len(set(alphas.values())) > 1:
        config |= {"rank_pattern": ranks, "alpha_pattern": alphas}
    return Adapter(weights, config)


def check_fit(model: nn.Module, adapter: Adapter) -> tuple[dict[str, int], dict[str, float]]:
    """Return rank and alpha of every module that `adapter` changes, in order of the modules' names.

    Raises WeightsError, naming the module or tensor, unless the adapter has a fitting pair of factors for each of its
    target modules, and nothing else.
    """
    if odd := sorted(adapter.config.keys() - CONFIG_FIELDS):
        raise WeightsError(f"adapter: {odd[0]!r} can't be used; known: {', '.join(sorted(CONFIG_FIELDS))}")
    config = LoraConfig(**adapter.config)
    modules = sorted(adapter.config["target_modules"])
    if not modules:
        raise WeightsError("adapter: it has no target modules; make the adapter again")
    expected = {f"{module}.{factor}.weight" for module in modules for factor in FACTORS}
    if odd := sorted(expected ^ adapter.weights.keys()):
        lacking = "is missing" if odd[0] in expected else "belongs to none of its target modules"
        raise WeightsError(f"adapter: {odd[0]} {lacking}; make the adapter again")
    ranks = {module: int(config.rank_pattern.get(module, config.r)) for module in modules}
    alphas = {module: float(config.alpha_pattern.get(module, config.lora_alpha)) for module in modules}
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for module in modules:
        if module not in linears:
            raise WeightsError(f"adapter: the model has no linear layer {module!r}; it was made for another model")
        found = [tuple(adapter.weights[f"{module}.{factor}.weight"].shape) for factor in FACTORS]
        base = linears[module]
        wanted = [(ranks[module], base.in_features), (base.out_features, ranks[module])]
        for factor, shape, fitting in zip(FACTORS, found, wanted, strict=True):
            if shape != fitting:
                raise WeightsError(
                    f"adapter: {module}.{factor}.weight has shape {shape}, expected {fitting} for this model "
                    f"and rank {ranks[module]}"
                )
        if adapter.gate:
            _check_gate(adapter.gate, module, base.in_features)
    return ranks, alphas


def _check_gate(gate: Gate, module: str, width: int) -> None:
    if gate.temperature <= 0:
        raise WeightsError(f"adapter: the gate's temperature must be above 0, it is {gate.temperature}")
    shape = tuple(gate.keys[module].shape) if module in gate.keys else None
    if shape is None or len(shape) != 2 or shape[0] < 1 or shape[1] != width:
        raise WeightsError(f"adapter: the gate's keys of {module} have shape {shape}, expected (1 or more, {width})")


@contextmanager
def _exclusive(model: nn.Module) -> Iterator[None]:
    """Mark `model` as adapted for the block; one adapter at a time."""
    if model in _ADAPTED or hasattr(model, "peft_config"):
        raise RuntimeError("an adapter is on this model already; leave its block first")
    _ADAPTED.add(model)
    try:
        yield
    finally:
        _ADAPTED.discard(model)


@contextmanager
def _injected(
    model: nn.Module, ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> Iterator[dict[str, LoraLayer]]:
    """Attach empty LoRA layers to these modules of `model`; yield them by name in sorted order."""
    with _exclusive(model):
        try:
            # On the meta device: otherwise PEFT initialises from the global random generator, and rounds whatever is
            # loaded afterwards to the base's dtype.
            inject_adapter_in_model(_exact_config(ranks, alphas), model, adapter_name=NAME, low_cpu_mem_usage=True)
            yield _lora_layers(model)
        finally:
            for name, layer in _lora_layers(model).items():
                model.set_submodule(name, layer.get_base_layer())
            if hasattr(model, "peft_config"):
                del model.peft_config


def _exact_config(ranks: Mapping[str, int], alphas: Mapping[str, float]) -> LoraConfig:
    """Return a configuration that matches exactly these modules.

    PEFT reads a list of names as suffixes, and the names in patterns as regular expressions of suffixes.
    """
    fields: dict[str, Any] = {
        "r": max(ranks.values()),
        "lora_alpha": max(alphas.values()),
        "target_modules": "|".join(re.escape(module) for module in ranks),
    }
    if len(set(ranks.values())) > 1:
        fields["rank_pattern"] = _by_pattern(ranks)
    if len(set(alphas.values())) > 1:
        fields["alpha_pattern"] = _by_pattern(alphas)
    return LoraConfig(**fields)


def _by_pattern(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return one regular expression per value.

    PEFT tries all expressions on each module: with one for each of the 840 modules of a step-distilled LoRA that takes
    minutes.
    """
    modules: dict[Any, list[str]] = {}
    for module, value in values.items():
        modules.setdefault(value, []).append(re.escape(module))
    return {f"^({'|'.join(names)})": value for value, names in modules.items()}


def _lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return dict(sorted(layers.items()))


def _set_factor(layer: LoraLayer, factor: str, value: Tensor, *, trainable: bool) -> nn.Parameter:
    device = layer.get_base_layer().weight.device
    parameter = nn.Parameter(value.to(device), requires_grad=trainable)
    getattr(layer, factor)[NAME].weight = parameter
    return parameter


def adapted_layers(transformer: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Return full names of the linear layers that match `names`, in the transformer's order.

    A name matches a layer of that name, or whose name ends with it (`add_k_proj`,
    `transformer_blocks.0.attn.add_k_proj`), as PEFT matches `target_modules`. Raises ConfigError for a name that
    matches no linear layer.
    """
    linears = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    found = {target: {name for name in linears if f".{name}".endswith(f".{target}")} for target in names}
    for target, matching in found.items():
        if not matching:
            known = ", ".join(sorted({linear.partition(".")[2].partition(".")[2] for linear in linears} - {""}))
            raise ConfigError(f"target module {target!r}: the transformer's blocks have {known}")
    return tuple(name for name in linears if any(name in matching for matching in found.values()))
