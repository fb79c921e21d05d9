"""Times of work on a device, each with its floor: the least time that the hardware allows."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from knowcusbench.adapters.cost import measured
from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.backbone.counting import meta_model, transformer_flops
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.gpu.models import Size
from knowcusbench.gpu.steps import Line
from knowcusbench.machine.rates import copy_bandwidth, matmul_flops, seconds

WARM, REPEATS = 3, 5
"""Warm-up calls, and timed calls."""


@dataclass(frozen=True)
class Rates:
    """Floating-point operations per second in bf16 and fp32, and bytes per second."""

    bf16: float
    fp32: float
    bandwidth: float

    def floor(self, flops: float, read: float, dtype: torch.dtype) -> tuple[float, str]:
        """Return the longer of compute and memory time in seconds, and its amount."""
        compute, memory = flops / (self.bf16 if dtype == torch.bfloat16 else self.fp32), read / self.bandwidth
        return max((compute, f"{flops / 1e12:.3g} TFLOP"), (memory, f"{read / 1e9:.3g} GB"))


@dataclass(frozen=True)
class Timer:
    """Timer of a device. `dtype` is the default dtype of the work."""

    device: torch.device
    dtype: torch.dtype

    @cached_property
    def rates(self) -> Rates:
        bf16, fp32 = (matmul_flops(self.device, dtype) for dtype in (torch.bfloat16, torch.float32))
        return Rates(bf16, fp32, copy_bandwidth(self.device))

    def timed(
        self,
        what: str,
        work: Callable[[], object],
        *,
        flops: float = 0.0,
        read: float = 0.0,
        dtype: torch.dtype | None = None,
        repeats: int = REPEATS,
        warm: int = WARM,
        each: int = 1,
        estimate: int | None = None,
    ) -> Line:
        """Time `work`, and return a line.

        It has median seconds per item (`each` items a call), the spread of the calls, the floor, and the peak of memory
        with its estimate.
        """
        for _ in range(warm):
            work()
        with measured("timed", self.device) as meter:
            taken = [seconds(work, self.device) for _ in range(repeats)]
        took = statistics.median(taken)
        result: dict[str, Any] = {
            "what": what,
            "seconds": took / each,
            "spread": (max(taken) - min(taken)) / took,
            "peak_memory_bytes": meter.cost.peak_memory_bytes,
        }
        if flops or read:
            floor, bound = self.rates.floor(flops, read, dtype or self.dtype)
            result |= {"floor": floor / each, "bound": bound}
        # On the CPU the peak is that of the whole process.
        return result | ({"estimated_bytes": estimate} if estimate and self.device.type == "cuda" else {})


def weight_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def forward_flops(size: Size, prompt: PromptEmbeds) -> float:
    """Return the operations of the transformer at batch 1 for a prompt of this length: a longer one would flatter."""
    transformer = meta_model(size.checkpoint, "transformer")
    pixels = {"height": size.image, "width": size.image}
    return transformer_flops(size.checkpoint, transformer, **pixels, tokens=prompt.embeds.shape[1])


def edit_bytes(backbone: DiffusersBackbone, facts: int, lowest: int) -> int:
    """Return the bytes read by an edit of `facts` facts.

    Every fact reads the language model forwards, and the layers above the first edited one backwards again; the check
    of the base weights reads everything.
    """
    paths = (name.rpartition(".mlp.")[0] for name in backbone.text_modules(["up_proj"], range(backbone.layer_count)))
    layers = [weight_bytes(backbone.text_encoder.get_submodule(path)) for path in paths]
    head = weight_bytes(backbone.text_encoder.get_output_embeddings())  # type: ignore[operator]
    passes = facts * (sum(layers) + head + sum(layers[lowest + 1 :]) + head)
    return passes + sum(weight_bytes(module) for module in backbone.modules().values())
