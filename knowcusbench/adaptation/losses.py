"""The losses of a training; a loss that is not finite stops it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from knowcusbench.adapters.types import Adapter
from knowcusbench.errors import MethodError
from knowcusbench.storage.finite import not_finite

if TYPE_CHECKING:
    from torch import Tensor

CHECK_EVERY = 25
"""Steps between two checks of the losses on a GPU, each of which waits for the GPU to finish its work."""


class Losses:
    """The loss of every step; raises MethodError once one is NaN or infinite.

    Args:
        trained: the trained thing as the message names it: "concept 'dog3'".
        remedy: the setting to lower.
    """

    def __init__(self, trained: str, remedy: str) -> None:
        self._trained = trained
        self._remedy = remedy
        self._losses: list[Tensor] = []
        self._checked = 0

    def add(self, loss: Tensor) -> None:
        """Record the loss of the next step. On a GPU it may be checked some steps later."""
        self._losses.append(loss.detach())
        if loss.device.type == "cpu" or len(self._losses) - self._checked == CHECK_EVERY:
            self._check()

    def mean(self, steps: slice) -> float:
        """Return the mean loss of a slice of the steps."""
        import torch

        return float(torch.stack(self._losses[steps]).mean())

    def trained(self, adapter: Adapter) -> Adapter:
        """Return the trained adapter after checking it too: the last loss was computed before the last step."""
        self._check()
        if name := not_finite(adapter.weights):
            raise MethodError(
                f"{self._trained}: {name} is not finite after step {len(self._losses)}; lower {self._remedy}"
            )
        return adapter

    def _check(self) -> None:
        import torch

        if unseen := self._losses[self._checked :]:
            finite = torch.stack(unseen).isfinite().tolist()
            if not all(finite):
                step = self._checked + finite.index(False) + 1
                raise MethodError(f"{self._trained}: loss is not finite at step {step}; lower {self._remedy}")
        self._checked = len(self._losses)
