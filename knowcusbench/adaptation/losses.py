"""The losses of a training, which ends where one is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from knowcusbench.adapters.types import Adapter
from knowcusbench.errors import MethodError
from knowcusbench.storage.finite import not_finite

if TYPE_CHECKING:
    from torch import Tensor

LOOKED_AT = 25
"""Steps between two looks at the losses on a GPU, which has to finish its work for each."""


class Losses:
    """Keeps a loss for every step, and raises MethodError once one is NaN or infinite.

    Args:
        trained: what is trained, for the message: "concept 'dog3'".
        remedy: the setting to lower.
    """

    def __init__(self, trained: str, remedy: str) -> None:
        self._trained = trained
        self._remedy = remedy
        self._losses: list[Tensor] = []
        self._seen = 0

    def add(self, loss: Tensor) -> None:
        """Keep the loss of the next step. On a GPU it may be looked at some steps later."""
        self._losses.append(loss.detach())
        if loss.device.type == "cpu" or len(self._losses) - self._seen == LOOKED_AT:
            self._look()

    def mean(self, steps: slice) -> float:
        """The mean loss of some steps."""
        import torch

        return float(torch.stack(self._losses[steps]).mean())

    def trained(self, adapter: Adapter) -> Adapter:
        """The adapter after the last step, looked at too: the last loss was taken before that step."""
        self._look()
        if name := not_finite(adapter.weights):
            raise MethodError(
                f"{self._trained}: {name} is not finite after step {len(self._losses)}; lower {self._remedy}"
            )
        return adapter

    def _look(self) -> None:
        import torch

        if unseen := self._losses[self._seen :]:
            finite = torch.stack(unseen).isfinite().tolist()
            if not all(finite):
                step = self._seen + finite.index(False) + 1
                raise MethodError(f"{self._trained}: loss is not finite at step {step}; lower {self._remedy}")
        self._seen = len(self._losses)
