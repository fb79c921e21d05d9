"""Gradient descent on the layers that an editor changes: the reference for the closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from knowcusbench.adapters.types import Factors
from knowcusbench.backbone.base import Backbone
from knowcusbench.editors.row_editor import RowEditor, Step
from knowcusbench.errors import ConfigError

if TYPE_CHECKING:
    from knowcusbench.editors.rows import FactRows


@dataclass(frozen=True, kw_only=True)
class GradientDescent(RowEditor):
    """Plain gradient descent on the weights for the mean loss of all facts: `rounds` steps of SGD without momentum.

    The gradient of a linear layer's weight is `G^T H` over the rows of all positions. A step is therefore the product
    of the factors H and `-learning_rate * G^T`: low rank, like a closed-form edit, and not rounded to the weights'
    dtype.

    Attributes:
        learning_rate: the factor on the gradient, the same in every round.
    """

    everywhere: ClassVar[bool] = True

    learning_rate: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learning_rate > 0:
            raise ConfigError(f"editor.learning_rate: expected a number above 0, found {self.learning_rate}")

    def begin(self, backbone: Backbone, names: Sequence[str]) -> Step:
        return self._step

    def _step(self, parts: Sequence[FactRows]) -> Factors:
        from knowcusbench.editors.rows import joined_rows

        rate = self.learning_rate / len(parts)
        return {name: (keys, -rate * gradients.T) for name, (keys, gradients) in joined_rows(parts).items()}
