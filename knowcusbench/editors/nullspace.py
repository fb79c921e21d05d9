"""An edit that leaves chosen prompts alone: AlphaEdit's idea in UltraEdit's closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from knowcusbench.backbone.base import Backbone
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.errors import ConfigError, MethodError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NullSpaceUltraEdit(UltraEdit):
    """UltraEdit in the null space of preserved inputs: `delta = P H^T (H P H^T + I)^-1 V`.

    P projects onto the orthogonal complement of the leading directions of the layer's inputs at all tokens of the
    preserved prompts (AlphaEdit, arXiv 2410.02355, which does the same on `down_proj` with 100,000 facts). Inputs in
    those directions give the same outputs as before. An edited question shares some of them, such as those of the
    prompt template's words; these can't be edited any more, so the edit is weaker.

    Attributes:
        preserved: texts (prompts or questions) that must be encoded as before.
        preserved_energy: share of the squared norm of their inputs that the protected directions hold. With 1 every
            input is protected exactly. The number of directions grows fast near 1; protecting all of them leaves
            nothing to edit.
    """

    preserved: tuple[str, ...]
    preserved_energy: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.preserved or not 0 < self.preserved_energy <= 1:
            raise ConfigError(
                "editor: expected preserved texts and 0 < preserved_energy <= 1, found "
                f"{len(self.preserved)} texts and preserved_energy={self.preserved_energy}"
            )
        if self.faithful:
            raise ConfigError("editor.faithful: the published code has no null space; use editor=ultraedit")

    def protected(self, backbone: Backbone, names: Sequence[str]) -> Mapping[str, Tensor]:
        import torch

        from knowcusbench.editors.closed_form import leading_directions
        from knowcusbench.editors.rows import capture_keys

        bases: dict[str, Tensor] = {}
        before: tuple[Tensor, Tensor] | None = None
        for name, keys in capture_keys(backbone, names, self.preserved).items():
            # Gate and up projection of a layer read the same input.
            if before is None or not torch.equal(keys, before[0]):
                before = keys, leading_directions(keys, self.preserved_energy)
            bases[name] = before[1]
            if bases[name].shape[1] == keys.shape[1]:
                raise MethodError(
                    f"the preserved texts take all {keys.shape[1]} directions of {name} and leave none to edit; "
                    "lower editor.preserved_energy or preserve fewer texts"
                )
        return bases
