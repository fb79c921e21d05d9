"""UltraEdit (arXiv 2505.14679): the closed-form knowledge edit of the paper's stage 2."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from knowcusbench.adapters.types import Adaptation, Adapter, Factors
from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.editors.row_editor import RowEditor, Step
from knowcusbench.errors import ConfigError, MethodError

if TYPE_CHECKING:
    from torch import Tensor

    from knowcusbench.editors.closed_form import Moments
    from knowcusbench.editors.rows import FactRows, Rows

Statistics = dict[tuple[int, int], "Moments"]
"""Moments of rows `[h, g]`, by the widths of h and g."""


@dataclass(frozen=True, kw_only=True)
class UltraEdit(RowEditor):
    """Exact UltraEdit: one closed-form step from the rows of all facts of a concept.

    For every edited linear layer, the inputs h and the output gradients g of the answer's loss are captured at the
    positions that predict the answer's tokens. `[h, g]` is normalised by mean and standard deviation over the rows of
    all edited layers of the same shape, and the weight changes by `(H^T H + I)^-1 H^T V` with `V = -eta |h|^2 g`.

    Attributes:
        eta: strength of the edit.
        warmup: neutral facts whose rows enter the statistics only. Deviations over a handful of rows say little; a
            single row has none, and the edit is then zero.
        precision: dtype of the n x n solve. Nearly parallel keys lose digits in float32.
        statistics: "concept" computes them from the edit's own facts and `warmup`, anew in every round. With
            "persistent", as in the published code, this object carries them over from one edit to the next: results
            then depend on the order of the concepts and on the number of workers, and a resumed run begins without any.
            A refused edit leaves them unchanged.
        faithful: compute as the published code does (`editor/ultraedit.py` and `nets.py` of
            github.com/XiaojieGu/UltraEdit), faults included, all in fp32: `PublishedMoments`, updated with one chunk
            per batch and layer; the loss averaged over a batch's tokens; a d x d solve. A floor division drops the
            gradients of a last partial batch there, so its facts get the gradient zero: normalised, that is minus the
            mean over the deviation. Two cases can't be computed and are refused: a chunk of a single row, whose
            variance is NaN, and fewer facts than a batch holds, which leave no gradient at all.
        batch_size: facts in a batch, the longest first, with `faithful`; no effect otherwise.
    """

    eta: float
    warmup: tuple[Fact, ...] = ()
    precision: Literal["float32", "float64"] = "float64"
    statistics: Literal["concept", "persistent"] = "concept"
    faithful: bool = False
    batch_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.eta > 0 and self.batch_size >= 1):
            raise ConfigError(
                f"editor: expected eta > 0 and batch_size >= 1, found eta={self.eta}, batch_size={self.batch_size}"
            )
        if self.faithful and self.warmup:
            raise ConfigError("editor.warmup: the published code has none; leave it empty with editor.faithful=true")

    def edit(self, facts: Sequence[Fact], backbone: Backbone, after: Adapter | None = None) -> Adaptation:
        before = copy.deepcopy(dict(self._persistent))
        try:
            return super().edit(facts, backbone, after)
        except BaseException:
            self._persistent.clear()
            self._persistent.update(before)
            raise

    def begin(self, backbone: Backbone, names: Sequence[str]) -> Step:
        from knowcusbench.editors.rows import joined_rows

        protected = self.protected(backbone, names)

        def step(parts: Sequence[FactRows]) -> Factors:
            if self.faithful:
                return self._published_step(parts)
            neutral = joined_rows(self.capture(backbone, names, self.warmup)) if self.warmup else {}
            return self._step(joined_rows(parts), neutral, protected)

        return step

    def protected(self, backbone: Backbone, names: Sequence[str]) -> Mapping[str, Tensor]:
        """Return, by layer, orthonormal bases (d_in, k) of the directions in which the layer's input must act as
        before."""
        return {}

    @cached_property
    def _persistent(self) -> Statistics:
        return self._no_statistics()

    def _no_statistics(self) -> Statistics:
        from knowcusbench.editors.closed_form import PublishedMoments, RunningMoments

        return defaultdict(PublishedMoments if self.faithful else RunningMoments)

    def _moments(self) -> Statistics:
        return self._persistent if self.statistics == "persistent" else self._no_statistics()

    def _step(self, rows: Rows, neutral: Rows, protected: Mapping[str, Tensor]) -> Factors:
        import torch

        from knowcusbench.editors.closed_form import edit_factors, edit_values

        moments = self._moments()
        for keys, gradients in [*rows.values(), *neutral.values()]:
            moments[_widths(keys, gradients)].update(torch.cat([keys, gradients], dim=1))
        factors = {}
        for name, (keys, gradients) in rows.items():
            values = edit_values(keys, gradients, moments[_widths(keys, gradients)], self.eta)
            factors[name] = edit_factors(keys, values, protected.get(name), getattr(torch, self.precision))
        return factors

    def _published_step(self, parts: Sequence[FactRows]) -> Factors:
        import torch

        from knowcusbench.editors.closed_form import edit_values, published_factors
        from knowcusbench.editors.rows import joined_rows

        batches = [joined_rows(weighted) for weighted in _batches(parts, self.batch_size)]
        moments = self._moments()
        for batch in batches:
            for keys, gradients in batch.values():
                moments[_widths(keys, gradients)].update(torch.cat([keys, gradients], dim=1))
        if len(parts) % self.batch_size:
            batches[-1] = {name: (keys, torch.zeros_like(g)) for name, (keys, g) in batches[-1].items()}
        factors = {}
        for name in batches[0]:
            keys, gradients = (torch.cat([batch[name][k] for batch in batches]) for k in (0, 1))
            values = edit_values(keys, gradients, moments[_widths(keys, gradients)], self.eta)
            factors[name] = published_factors(keys, values)
        return factors


def _widths(keys: Tensor, gradients: Tensor) -> tuple[int, int]:
    return keys.shape[1], gradients.shape[1]


def _batches(parts: Sequence[FactRows], size: int) -> list[list[FactRows]]:
    """Split facts into the published code's batches, the longest first.

    Their gradients are scaled to those of the mean loss over all tokens of the batch.
    """
    if len(parts) < size:
        raise MethodError(
            f"editor.faithful: {len(parts)} facts in batches of {size}: the published code drops the gradients of the "
            f"last, partial batch, and here there is no other; set editor.batch_size to at most {len(parts)}"
        )
    ordered = sorted(parts, key=lambda part: part.length, reverse=True)
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    for batch in batches:
        if sum(len(part) for part in batch) < 2:
            raise MethodError(
                f"question {batch[0].fact.question!r}: its batch has a single row, whose variance is NaN in the "
                "published code; raise editor.batch_size, or set editor.faithful=false"
            )
    return [[_weighted(part, len(part) / sum(map(len, batch))) for part in batch] for batch in batches]


def _weighted(part: FactRows, weight: float) -> FactRows:
    from knowcusbench.editors.rows import FactRows

    rows = {name: (keys, gradients * weight) for name, (keys, gradients) in part.rows.items()}
    return FactRows(part.fact, rows, part.loss, part.length)
