"""Changes merged into weights: rounded to their dtype, measured, and reverted bit for bit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BLOCK = 2048
"""Rows of a weight processed at a time."""


@contextmanager
def merged(model: nn.Module, changes: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Add `up @ down` to the weights of linear layers of `model` for the duration of the block.

    `changes` maps the layer's full name to `(down, up)` of shapes (r, in_features) and (out_features, r). The sum is
    computed in fp32 and rounded to the weights' dtype. Afterwards, copies of the weights are put back: subtracting the
    change would leave them rounded twice.
    """
    saved = {name: _weight(model, name).clone() for name in changes}
    try:
        for name, (down, up) in changes.items():
            for rows, _, rounded in _rounded_sum(_weight(model, name), down, up):
                rows.copy_(rounded)
        yield
    finally:
        for name, weight in saved.items():
            # Looked up again: after a move to another device, the model's weights are in new storage.
            _weight(model, name).copy_(weight)


@torch.no_grad()
def retained_gain(model: nn.Module, changes: Mapping[str, tuple[Tensor, Tensor]]) -> float:
    """Return the share of the changes D that survives a merge into the weights W: `sum <round(W + D) - W, D> / sum
    |D|^2`.

    The sums run over all matrices; this is the part of D along itself that survives the rounding to the weights' dtype.
    It is 1 if all of D survives or D is zero, and around 0 where D is lost between two neighbouring numbers. Only one
    block of one matrix is dense at a time.
    """
    kept = total = 0.0
    for name, (down, up) in changes.items():
        for rows, change, rounded in _rounded_sum(_weight(model, name), down, up):
            kept += float(((rounded.to(change.dtype) - rows) * change).double().sum())
            total += float(change.double().square().sum())
    return kept / total if total else 1.0


def _weight(model: nn.Module, name: str) -> Tensor:
    weight: Tensor = model.get_parameter(f"{name}.weight").detach()
    return weight


def _rounded_sum(weight: Tensor, down: Tensor, up: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield, block by block, rows of the weight (a view), their change, and their rounded sum."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    down, up = down.to(weight.device, dtype), up.to(weight.device, dtype)
    for start in range(0, len(weight), BLOCK):
        rows = weight[start : start + BLOCK]
        change = up[start : start + BLOCK] @ down
        yield rows, change, (rows.to(dtype) + change).to(weight.dtype)
