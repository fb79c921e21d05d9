"""LoRA on a plain linear layer with as few kernels as its products need."""

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


class LeanLinear(Linear):  # type: ignore[misc]
    """PEFT's LoRA layer with another forward: `x W^T + b + s (x A^T) B^T`, the last product added into the first.

    It computes in the dtype of the base's weight. Factors kept in fp32 are small, so they are cast at use; PEFT casts
    the inputs instead. Gradients reach the factors in their own dtype.
    """

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        base = self.get_base_layer()
        (name,) = self.active_adapters
        down, up = (factor[name].weight.to(base.weight.dtype) for factor in (self.lora_A, self.lora_B))
        if self.scaling[name] != 1:
            up = up * self.scaling[name]
        rows = x.flatten(0, -2)
        # In place: nothing else uses this output, and its gradient equals the sum's.
        output: Tensor = base(rows)
        output.addmm_(nn.functional.linear(rows, down), up.t())
        return output.view(*x.shape[:-1], -1)


def make_lean(layer: LoraLayer, dtype: torch.dtype | None) -> None:
    """Switch a layer injected by PEFT to this forward if its base is a plain linear layer of `dtype` (None: any).

    PEFT's own construction, names and bookkeeping stay.
    """
    base = layer.get_base_layer()
    plain = type(layer) is Linear and type(base) is nn.Linear and not is_traceable_wrapper_subclass(base.weight)
    if plain and dtype in (None, base.weight.dtype):
        layer.__class__ = LeanLinear
