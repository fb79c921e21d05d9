"""The device and the dtype that compute."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from knowcusbench.errors import ConfigError

if TYPE_CHECKING:
    import torch

Dtype = Literal["bfloat16", "float32"]
"""Dtypes that backbones compute in."""


class Precision(StrEnum):
    """Dtype of an encoder's weights; embeddings are normalised and compared in fp32 and fp64."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


GAIN = 1.25
"""Smallest speed-up of bf16 matrix products on a CPU for which bf16 is chosen: other operations are slower in bf16."""


def resolve_device(name: str) -> torch.device:
    """Return the torch device called `name`; "auto" is a GPU if there is one.

    Raises ConfigError for a name that torch does not know, and for a GPU that is absent.
    """
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
    """Return the dtype in which a device computes faster.

    On a GPU this is bf16 if the GPU supports it. On a CPU it is bf16 if measured bf16 products take at most 1 / `GAIN`
    of the time of fp32 products. Otherwise it is fp32.

    Known processors are far from this limit: bf16 is four times faster with AMX, and 0.01 to 0.6 times as fast without.
    Near the limit two commands may choose differently; a run keeps the choice of its first command.
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
    """Return the measurements that `fast_dtype` decides by, in words."""
    from knowcusbench.machine.rates import rates_in_words

    if device.type != "cpu":
        return f"{device.type}, {'with' if fast_dtype(device) == 'bfloat16' else 'without'} bf16"
    return f"matrix products here: {rates_in_words(device)}"


def keep_fp32(device: torch.device, dtype: str) -> None:
    """Make this process compute fp32 at full precision from now on, if `dtype` is fp32 on a GPU.

    By default torch's convolutions on GPUs round their inputs to 10 bits (TF32). Other dtypes are not affected.
    """
    import torch

    if device.type == "cuda" and dtype == "float32":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
