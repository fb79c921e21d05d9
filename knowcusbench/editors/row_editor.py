"""The common part of editors that change linear layers from rows of their inputs and output gradients."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tqdm import tqdm

from knowcusbench.adapters.cost import measured
from knowcusbench.adapters.sums import concatenated, factors_of, summed
from knowcusbench.adapters.types import Adaptation, Adapter, Factors
from knowcusbench.backbone.base import Backbone, QuestionForm
from knowcusbench.benchmark.types import Fact
from knowcusbench.editors.base import Editor, distinct
from knowcusbench.errors import ConfigError, MethodError

if TYPE_CHECKING:
    from torch import Tensor

    from knowcusbench.editors.rows import FactRows

Step = Callable[[Sequence["FactRows"]], Factors]
"""One step of an edit: maps the facts' rows in the partly edited model to the next change of its layers."""

AnswerTokens = Literal["all", "first"]

LOW_GAIN = 0.5
"""Share of a merged edit that must survive; below it a warning is printed."""


@dataclass(frozen=True, kw_only=True)
class RowEditor(Editor):
    """Edits linear layers of the text encoder from captured rows, in rounds, and stores the change as a LoRA.

    Every round captures the rows of all facts in the model as edited so far, with one forward and one backward pass per
    fact, and adds the change that `begin`'s step makes from them. The recompressed sum over the rounds is stored, and
    put on the model in the next round. The sum itself is recompressed in every round too, so that its rank stays small:
    each time by at most `1 / rounds` of the relative error that `energy` allows, together by no more than that error.

    The details of the adaptation are, after `edit_`: `losses_before_rounds`, the mean loss of the answers before each;
    `ranks` of the stored factors by layer; `recompression_error`, the largest relative error (Frobenius norm) of a
    layer's stored fp32 factors to that sum; `bf16_error`, the error of the same factors rounded to bf16;
    `retained_gain`, the share of the edit that a merge into the weights would keep (`retained_gain` in
    `knowcusbench.adapters.merging`), whether it is merged or not.

    Attributes:
        layers: decoder layers to edit, one by one. The paper says layers 18-26 and 16 matrices, which do not agree: two
            matrices in each of 18..25 are 16, in 18..26 they are 18. We take 18..25.
        modules: linear layers to edit in each.
        question_form: how the question is put to the text encoder.
        answer_tokens: the tokens of an answer that count, in the loss and as rows: "all" as in the published code, or
            only the "first", after which the model continues by itself.
        rounds: the largest number of steps.
        target_loss: stop before the next round when the mean loss of the answers is below this.
        energy: share of the edit's squared Frobenius norm that its stored factors keep.
        merge: add the edit to the weights, rounded to their dtype, as the release does. Most of it is lost in bf16; a
            warning is printed when more than half is.
    """

    layers: tuple[int, ...]
    modules: tuple[str, ...] = ("gate_proj", "up_proj")
    question_form: QuestionForm = QuestionForm.chat
    answer_tokens: AnswerTokens = "all"
    rounds: int = 1
    target_loss: float = 0.0
    energy: float = 0.999999
    merge: bool = False

    everywhere: ClassVar[bool] = False
    """Whether rows are captured at all positions instead of the answer's alone."""

    def __post_init__(self) -> None:
        if not (self.rounds >= 1 and 0 < self.energy <= 1):
            raise ConfigError(
                f"editor: expected rounds >= 1 and 0 < energy <= 1, found rounds={self.rounds}, energy={self.energy}"
            )

    @abstractmethod
    def begin(self, backbone: Backbone, names: Sequence[str]) -> Step:
        """Return the step of one edit of the layers `names`. Called on the unedited backbone."""

    def edit(self, facts: Sequence[Fact], backbone: Backbone, after: Adapter | None = None) -> Adaptation:
        facts = distinct(facts)
        if not facts:
            raise MethodError("there are no facts to teach")
        with measured("textual", backbone.device) as meter:
            names = backbone.text_modules(self.modules, self.layers)
            step = self.begin(backbone, names)
            change: Factors = {}
            adapter: Adapter | None = None
            losses: list[float] = []
            for _ in range(self.rounds):
                with _edited(backbone, after, adapter):
                    rows = self.capture(backbone, names, facts)
                    losses.append(sum(part.loss for part in rows) / len(rows))
                    if losses[-1] < self.target_loss:
                        break
                    change = self._added(change, step(rows))
                adapter = self.stored(change, rows, adapter)
        details: dict[str, Any] = {"edit_losses_before_rounds": losses}
        if adapter:
            details |= self._measures(backbone, change, adapter)
        backbone.check_intact()
        return Adaptation(text_encoder=adapter, cost=meter.cost, details=details)

    def capture(self, backbone: Backbone, names: Sequence[str], facts: Sequence[Fact]) -> list[FactRows]:
        """Return the facts' rows in the model's present state. Raises MethodError, naming the question."""
        from knowcusbench.editors.rows import capture_fact

        parts = []
        for fact in facts:
            input_ids, labels = backbone.question_tokens(fact.question, fact.answer, self.question_form)
            if self.answer_tokens == "first":
                labels = _first_label(labels)
            parts.append(capture_fact(backbone, names, fact, (input_ids, labels), everywhere=self.everywhere))
        return parts

    def stored(self, change: Factors, rows: Sequence[FactRows], earlier: Adapter | None) -> Adapter:
        """Return the adapter that stores and applies a change.

        `rows` are those of the latest step, `earlier` is the adapter before it.
        """
        from knowcusbench.editors.closed_form import recompress

        adapter = Adapter.from_factors({name: recompress(*factors, self.energy) for name, factors in change.items()})
        return replace(adapter, merged=self.merge)

    def sum(self, edits: Sequence[Adaptation], backbone: Backbone) -> Adaptation:
        """Return several edits as one, stored like a single edit, with its details. Gated edits keep their own
        ranks."""
        total = summed(edits)
        details: dict[str, Any] = {
            "edit_losses_before_rounds": [edit.details["edit_losses_before_rounds"] for edit in edits]
        }
        adapter = total.text_encoder
        if adapter:
            change = factors_of(adapter)
            if not adapter.gate:
                adapter = self.stored(change, (), None)
            details |= self._measures(backbone, change, adapter)
        return replace(total, text_encoder=adapter, details=details)

    def _added(self, change: Factors, step: Factors) -> Factors:
        """Return the sum of two changes, recompressed."""
        from knowcusbench.editors.closed_form import recompress

        for name, (down, up) in step.items():
            if not (down.isfinite().all() and up.isfinite().all()):
                raise MethodError(f"the edit of {name} has values that are not finite; nothing was edited")
        if not change:
            return step
        energy = 1 - (1 - self.energy) / self.rounds**2
        return {name: recompress(*factors, energy) for name, factors in concatenated([change, step]).items()}

    def _measures(self, backbone: Backbone, change: Factors, adapter: Adapter) -> dict[str, Any]:
        import torch

        from knowcusbench.adapters.merging import retained_gain
        from knowcusbench.editors.closed_form import relative_error

        found = factors_of(adapter)
        errors = {
            dtype: max(
                relative_error((down.to(exact[0].device, dtype), up.to(exact[0].device, dtype)), exact)
                for (down, up), exact in ((found[name], exact) for name, exact in change.items())
            )
            for dtype in (torch.float32, torch.bfloat16)
        }
        gain = retained_gain(backbone.text_encoder, found)
        if self.merge and gain < LOW_GAIN:
            tqdm.write(
                f"knowcusbench: merging keeps {gain:.0%} of the edit in weights of this dtype; editor.merge=false "
                "keeps all of it",
                file=sys.stderr,
            )
        return {
            "edit_ranks": [len(down) for down, _ in found.values()],
            "edit_recompression_error": errors[torch.float32],
            "edit_bf16_error": errors[torch.bfloat16],
            "edit_retained_gain": gain,
        }


def _edited(backbone: Backbone, *edits: Adapter | None) -> AbstractContextManager[None]:
    """Attach edits to the text encoder as they will be stored."""
    import torch

    from knowcusbench.adapters.lora import attached

    present = [Adaptation(text_encoder=edit) for edit in edits if edit]
    adapter = present[0].text_encoder if len(present) == 1 else summed(present).text_encoder
    return attached(backbone.text_encoder, adapter, torch.float32) if adapter else nullcontext()


def _first_label(labels: Tensor) -> Tensor:
    """Return labels (1, length) with only the first counting label left."""
    counted = labels >= 0
    return labels.masked_fill(counted & (counted.cumsum(1) > 1), -100)
