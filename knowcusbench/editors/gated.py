"""An edit that acts only near the edited questions: Perfusion's gate on UltraEdit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from knowcusbench.adapters.types import Adapter, Factors, Gate
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.errors import ConfigError

if TYPE_CHECKING:
    from knowcusbench.editors.rows import FactRows


@dataclass(frozen=True, kw_only=True)
class GatedUltraEdit(UltraEdit):
    """UltraEdit behind a gate (`Gate`; Perfusion, arXiv 2305.01644).

    A layer's change acts on an input in proportion to its similarity to the edited keys, the inputs at which the layer
    was edited. Temperature and bias are stored with the edit and can be changed without making it again: with
    `Adapter.with_gate`, or by hand in `adaptation.json`.

    Attributes:
        temperature: softness of the gate.
        bias: the cosine to the nearest edited key at which the gate is half open.
    """

    temperature: float
    bias: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.temperature > 0 and -1 <= self.bias <= 1):
            raise ConfigError(
                "editor: expected temperature > 0 and a cosine as bias, found "
                f"temperature={self.temperature}, bias={self.bias}"
            )
        if self.merge:
            raise ConfigError("editor.merge: a gated edit depends on its input and can't be merged into weights")

    def stored(self, change: Factors, rows: Sequence[FactRows], earlier: Adapter | None) -> Adapter:
        import torch

        keys = {name: torch.cat([part.rows[name][0] for part in rows]).cpu() for name in change}
        if earlier and earlier.gate:
            keys = {name: torch.cat([earlier.gate.keys[name], latest]) for name, latest in keys.items()}
        adapter = super().stored(change, rows, earlier)
        return replace(adapter, gate=Gate(keys, self.temperature, self.bias))
