"""LoRA adapters on a resident model through PEFT: put on, trained, read out, and taken off without a trace."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from knowcusbench.adaptation.types import Adapter
from knowcusbench.errors import WeightsError

NAME = "default"


@contextmanager
def attached(model: nn.Module, adapter: Adapter, dtype: torch.dtype) -> Iterator[None]:
    """`model` with `adapter` on it, computing in `dtype`, for the duration of the block.

    Raises WeightsError, before anything is changed, if a tensor of the adapter does not fit the model.
    """
    check_fit(model, adapter)
    with _injected(model, LoraConfig(**adapter.config)):
        set_peft_model_state_dict(model, dict(adapter.weights), adapter_name=NAME)
        for parameter in _lora_parameters(model).values():
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(False)
        yield


@contextmanager
def trainable(
    model: nn.Module, targets: Sequence[str], rank: int, alpha: float, seed: int
) -> Iterator[dict[str, nn.Parameter]]:
    """`model` with a new LoRA on the linear layers `targets` (full names); yields its parameters by name.

    The parameters are fp32 whatever the model's dtype: steps of a small learning rate vanish in bf16. `lora_A` is drawn
    uniformly from +-1/sqrt(in_features) (PEFT's initialisation) by a generator of its own, `lora_B` is zero.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
    generator = torch.Generator().manual_seed(seed)
    with _injected(model, config):
        parameters = _lora_parameters(model)
        for name, parameter in sorted(parameters.items()):
            value = torch.zeros(parameter.shape)
            if "lora_A" in name:
                bound = 1 / math.sqrt(parameter.shape[1])
                value.uniform_(-bound, bound, generator=generator)
            parameter.data = value.to(parameter.device)
            parameter.requires_grad_(True)
        yield parameters


def extract(model: nn.Module) -> Adapter:
    """The adapter that is on `model`, as fp32 CPU tensors."""
    config: LoraConfig = vars(model)["peft_config"][NAME]
    state = get_peft_model_state_dict(model, adapter_name=NAME)
    # Copied: an adapter must not change when training goes on.
    weights = {name: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in state.items()}
    fields = {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": sorted(module_names(weights))}
    return Adapter(weights, fields)


def module_names(weights: Mapping[str, Tensor]) -> set[str]:
    """The modules that an adapter's tensors belong to."""
    return {name.rsplit(".lora_", 1)[0] for name in weights}


def check_fit(model: nn.Module, adapter: Adapter) -> None:
    """Raise WeightsError, naming the tensor, unless `adapter` has a fitting pair of factors for every target."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    modules = module_names(adapter.weights)
    if modules != set(adapter.config["target_modules"]):
        odd = sorted(modules ^ set(adapter.config["target_modules"]))[0]
        raise WeightsError(f"adapter: {odd} is not in both the weights and target_modules; make the adapter again")
    for module in sorted(modules):
        if module not in linears:
            raise WeightsError(f"adapter: the model has no linear layer {module!r}; it was made for another model")
        down = adapter.weights.get(f"{module}.lora_A.weight")
        up = adapter.weights.get(f"{module}.lora_B.weight")
        if down is None or up is None:
            raise WeightsError(f"adapter: {module} lacks lora_A or lora_B; make the adapter again")
        base = linears[module]
        wanted = (base.out_features, base.in_features)
        if (up.shape[0], down.shape[1]) != wanted or up.shape[1] != down.shape[0]:
            raise WeightsError(
                f"adapter: {module} has factors {tuple(up.shape)} x {tuple(down.shape)}, the layer is "
                f"{wanted[0]} x {wanted[1]}; it was made for another model"
            )


@contextmanager
def _injected(model: nn.Module, config: LoraConfig) -> Iterator[None]:
    try:
        # PEFT initialises with the global generator, which is not ours to move.
        with torch.random.fork_rng():
            inject_adapter_in_model(config, model, adapter_name=NAME)
        yield
    finally:
        for name, layer in list(model.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                model.set_submodule(name, layer.get_base_layer())
        if hasattr(model, "peft_config"):
            del model.peft_config


def _lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}
