"""A LoRA that was distilled to draw in few steps, beside whatever adapts the transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from knowcusbench.adapters.sums import sum_of_adapters
from knowcusbench.adapters.types import Adapter
from knowcusbench.errors import ConfigError, WeightsError, first_line
from knowcusbench.storage.finite import not_finite

if TYPE_CHECKING:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StepLora:
    """A step-distilled LoRA of the transformer, such as Qwen-Image-Lightning (github.com/ModelTC/Qwen-Image-Lightning).

    It acts when images are drawn; training sees the transformer without it.

    Attributes:
        source: a safetensors file, or a directory or hub id that has `file`.
        file: the name of the safetensors file.
        revision: commit, tag or branch of a hub id.
        strength: the factor on its change.
        shift: the time shift that it was distilled with, in place of the scheduler's resolution-dependent one and its
            terminal stretch; null leaves the scheduler as it is.
    """

    source: str
    file: str | None = None
    revision: str | None = None
    strength: float = 1.0
    shift: float | None = 3.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise ConfigError(f"backbone.step_lora.strength: expected a number, found {self.strength}")
        if self.shift is not None and not 0 < self.shift < math.inf:
            raise ConfigError(f"backbone.step_lora.shift: expected a number above 0, found {self.shift}")

    def load(self, pipeline_class: str) -> Adapter:
        """Return the LoRA on the CPU, its strength included, for pipelines of this class of diffusers.

        Raises WeightsError, naming the source, if it can't be had or has something else than pairs of factors.
        """
        import diffusers

        from knowcusbench.backbone.loading import LOAD_ERRORS, quiet_libraries

        source = str(Path(self.source).expanduser())
        try:
            with quiet_libraries():
                found: dict[str, Tensor] = getattr(diffusers, pipeline_class).lora_state_dict(
                    source, weight_name=self.file, revision=self.revision, use_safetensors=True
                )
        except (*LOAD_ERRORS, KeyError, StopIteration) as error:
            raise WeightsError(
                f"backbone.step_lora: can't load {self.source!r}, file {self.file!r} ({first_line(error)})"
            ) from error
        weights = {name.removeprefix("transformer."): tensor for name, tensor in found.items()}
        modules = sorted({name.rpartition(".lora_")[0] for name in weights})
        expected = {f"{module}.lora_{factor}.weight" for module in modules for factor in "AB"}
        if odd := sorted(expected ^ weights.keys()):
            raise WeightsError(f"backbone.step_lora: {self.source!r} is not a plain LoRA ({odd[0]})")
        pairs = {
            module: (weights[f"{module}.lora_A.weight"], self.strength * weights[f"{module}.lora_B.weight"])
            for module in modules
        }
        adapter = Adapter.from_factors(pairs)
        if name := not_finite(adapter.weights):
            raise WeightsError(
                f"backbone.step_lora: {name} of {self.source!r} has NaN or infinity at strength {self.strength}; "
                "copy it again, or lower the strength"
            )
        return adapter

    def scheduler(self, scheduler: FlowMatchEulerDiscreteScheduler) -> FlowMatchEulerDiscreteScheduler:
        """Return the scheduler that it draws with, made from the checkpoint's."""
        if self.shift is None:
            return scheduler
        from diffusers import FlowMatchEulerDiscreteScheduler

        # The shift is exp(mu), and mu is interpolated between these two by the image's size.
        mu = math.log(self.shift)
        return FlowMatchEulerDiscreteScheduler.from_config(
            scheduler.config, base_shift=mu, max_shift=mu, shift_terminal=None, use_dynamic_shifting=True
        )


def beside(resident: Adapter, adapter: Adapter | None) -> Adapter:
    """The resident adapter together with another, as one: `B1 A1 + B2 A2 = [B1 B2] [A1; A2]`. The factors lie where the
    resident's do."""
    if adapter is None:
        return resident
    if adapter.merged or adapter.gate:
        raise WeightsError("backbone.step_lora: it can't be used beside an adapter that is merged or has a gate")
    return sum_of_adapters([resident, adapter]) or resident


def on_device(adapter: Adapter, device: torch.device, dtype: torch.dtype) -> Adapter:
    """The adapter with its factors where the model computes, so that it is put on without a transfer."""
    return Adapter({name: tensor.to(device, dtype) for name, tensor in adapter.weights.items()}, adapter.config)
