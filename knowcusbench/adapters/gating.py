"""Adapters that act only on inputs close to known ones."""

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from knowcusbench.adapters.types import Gate


def openness(inputs: Tensor, keys: Tensor, temperature: float, bias: float) -> Tensor:
    """Return how open a gate is, 0 to 1: `sigmoid((similarity - bias) / temperature)`.

    The similarity is the highest cosine between the input and any of the keys (m, d). `inputs` (..., d) -> (..., 1), in
    fp32.

    >>> import torch
    >>> openness(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), temperature=0.1, bias=0.5)
    tensor([[0.9933],
            [0.0067]])
    """
    cosines = nn.functional.normalize(inputs.float(), dim=-1) @ nn.functional.normalize(keys.float(), dim=-1).T
    return torch.sigmoid((cosines.amax(-1, keepdim=True) - bias) / temperature)


def install_gate(layer: LoraLayer, adapter_name: str, gate: Gate, module: str) -> None:
    """Multiply the adapter's contribution to the layer's output by the gate's openness at the layer's input.

    The gate is removed together with the LoRA layer.
    """
    keys = gate.keys[module].to(layer.get_base_layer().weight.device)
    ranks, counts = zip(*gate.parts.get(module, ((layer.r[adapter_name], len(keys)),)), strict=True)
    parts = list(zip(ranks, torch.split(keys, list(counts)), strict=True))
    pending: list[Tensor] = []

    def compute_openness(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs = arguments[0]
        opened = [
            # The model may have moved to another device meanwhile; the keys do not move with it.
            openness(inputs, own.to(inputs.device), gate.temperature, gate.bias).expand(*inputs.shape[:-1], rank)
            for rank, own in parts
        ]
        pending[:] = [torch.cat(opened, dim=-1)]

    def scale(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * pending.pop().to(output.dtype)

    layer.register_forward_pre_hook(compute_openness)
    layer.lora_A[adapter_name].register_forward_hook(scale)
