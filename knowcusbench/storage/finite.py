"""Numbers that are NaN or infinite: looked for where they would go on unseen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK = 1 << 26
"""Elements looked at together, which bounds the memory for it to 64 MiB."""


def not_finite(tensors: Mapping[str, Tensor], device: torch.device | None = None) -> str | None:
    """Return the name of the first tensor that has NaN or infinity, or None. With `device` the tensors are looked at
    there, part by part."""
    return next((name for name, tensor in tensors.items() if not _is_finite(tensor, device)), None)


def _is_finite(tensor: Tensor, device: torch.device | None) -> bool:
    if not tensor.is_floating_point():
        return True
    import torch

    parts = torch.split(tensor.detach().flatten(), CHUNK)
    return all(bool(part.to(device or part.device).isfinite().all()) for part in parts)
