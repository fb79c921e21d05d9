"""A check for NaN and infinity in tensors, for places where they would pass on unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK = 1 << 26
"""Elements checked at once, which bounds the extra memory to 64 MiB."""


def not_finite(tensors: Mapping[str, Tensor], device: torch.device | None = None) -> str | None:
    """Return the name of the first tensor with NaN or infinity, or None.

    With `device`, the tensors are checked on that device, one chunk at a time.
    """
    return next((name for name, tensor in tensors.items() if not _is_finite(tensor, device)), None)


def _is_finite(tensor: Tensor, device: torch.device | None) -> bool:
    if not tensor.is_floating_point():
        return True
    import torch

    parts = torch.split(tensor.detach().flatten(), CHUNK)
    return all(bool(part.to(device or part.device).isfinite().all()) for part in parts)
