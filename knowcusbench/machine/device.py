"""Which device computes, and in which dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from knowcusbench.errors import ConfigError

if TYPE_CHECKING:
    import torch

Dtype = Literal["bfloat16", "float32"]
"""A dtype that backbones compute in."""

GAIN = 1.25
"""So many times faster bf16 must be on a CPU: what is no matrix product is slower in it."""


def resolve_device(name: str) -> torch.device:
    """The torch device called `name`; "auto" is a GPU if there is one. Raises ConfigError for a name that torch does
    not know or a GPU that is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is not a device; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, and torch finds no GPU here; use device=auto")
    return device


def fast_dtype(device: torch.device) -> Dtype:
    """The dtype that a device computes faster in: bf16 on a GPU that has it, and on a CPU whose measured products in
    bf16 take at most 1 / `GAIN` of the time of those in fp32; else fp32.

    The processors known so far are far from the limit: bf16 is four times faster with AMX, and 0.01 to 0.6 times as
    fast without. Near it, two commands may choose differently; a run keeps what its first one chose.
    """
    import torch

    from knowcusbench.machine.rates import product_rates

    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type != "cpu":
        return "float32"
    rates = product_rates(device)
    return "bfloat16" if rates[torch.bfloat16] >= GAIN * rates[torch.float32] else "float32"


def measured(device: torch.device) -> str:
    """What `fast_dtype` goes by, in words."""
    from knowcusbench.machine.rates import rates_in_words

    if device.type != "cpu":
        return f"{device.type}, {'with' if fast_dtype(device) == 'bfloat16' else 'without'} bf16"
    return f"matrix products here: {rates_in_words(device)}"


def keep_fp32(device: torch.device, dtype: str) -> None:
    """Have fp32 computed as such by this process from now on, if that is what computes on a GPU: torch's convolutions
    there round their inputs to 10 bits (TF32) unless told otherwise. Other dtypes are not concerned."""
    import torch

    if device.type == "cuda" and dtype == "float32":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
