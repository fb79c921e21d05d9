"""UltraEdit (arXiv 2505.14679): the closed-form knowledge edit of the paper's stage 2."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from knowcusbench.adaptation.closed_form import RunningMoments, edit_factors, edit_values, recompress
from knowcusbench.adaptation.editor import Editor, Fact
from knowcusbench.adaptation.measure import measured
from knowcusbench.adaptation.types import Adaptation, Adapter
from knowcusbench.backbone.base import Backbone, QuestionForm
from knowcusbench.backbone.lora import attached
from knowcusbench.errors import ConfigError, MethodError

Rows = dict[str, tuple[Tensor, Tensor]]
"""Inputs h (n, d_in) and output gradients g (n, d_out) of a layer at n positions, by the layer's full name."""

Factors = dict[str, tuple[Tensor, Tensor]]
"""Factors (r, d_in) and (d_out, r) of a layer's change, by the layer's full name."""


@dataclass(frozen=True, kw_only=True)
class UltraEdit(Editor):
    """UltraEdit, exact: the rows of all facts of a concept in one closed-form step, stored as a LoRA.

    For every edited linear layer, the inputs h and the output gradients g of the answer's loss are captured at the
    positions that predict the answer's tokens. `[h, g]` is normalised by mean and standard deviation over the rows of
    all edited layers of the same shape, and the weight changes by `(H^T H + I)^-1 H^T V` with `V = -eta |h|^2 g`.
    The statistics are those of the concept's own facts and of `warmup`: nothing carries over from one concept to the
    next.

    Attributes:
        eta: strength of the edit.
        layers: decoder layers to edit, one by one. The paper says layers 18-26 and 16 matrices, which do not agree:
            two matrices in each of 18..25 are 16, in 18..26 they are 18. We take 18..25.
        modules: linear layers to edit in each.
        question_form: how the question is put to the text encoder.
        rounds: how often the closed form is applied, each time to the model as edited so far. The paper: once.
        target_loss: stop before the next round when the mean loss of the answers is below this.
        warmup: neutral facts whose rows enter the statistics only. Deviations over a handful of rows say little, and
            of a single row there are none: the edit is then zero.
        energy: part of the edit's squared Frobenius norm that its stored factors keep.
    """

    eta: float
    layers: tuple[int, ...]
    modules: tuple[str, ...] = ("gate_proj", "up_proj")
    question_form: QuestionForm = "chat"
    rounds: int = 1
    target_loss: float = 0.0
    warmup: tuple[Fact, ...] = ()
    energy: float = 0.999999

    def __post_init__(self) -> None:
        if not (self.eta > 0 and self.rounds >= 1 and 0 < self.energy <= 1):
            raise ConfigError(
                f"editor: expected eta > 0, rounds >= 1 and 0 < energy <= 1, found eta={self.eta}, "
                f"rounds={self.rounds}, energy={self.energy}"
            )

    def edit(self, facts: Sequence[Fact], backbone: Backbone) -> Adaptation:
        with measured("textual", backbone.device) as meter:
            names = backbone.text_modules(self.modules, self.layers)
            factors: Factors = {}
            losses: list[float] = []
            for _ in range(self.rounds):
                with edited(backbone, factors):
                    rows, loss = self._capture(backbone, names, facts)
                    losses.append(loss)
                    if loss < self.target_loss:
                        break
                    neutral = self._capture(backbone, names, self.warmup)[0] if self.warmup else {}
                factors = self._added(factors, edit_step(rows, self.eta, neutral))
            adapter = Adapter.from_factors(factors) if factors else None
        backbone.check_intact()
        ranks = [len(down) for down, _ in factors.values()]
        details = {"edit_losses_before_rounds": losses, "edit_ranks": ranks}
        return Adaptation(text_encoder=adapter, cost=meter.cost, details=details)

    def _capture(self, backbone: Backbone, names: Sequence[str], facts: Sequence[Fact]) -> tuple[Rows, float]:
        """Inputs and output gradients by module, over all facts, and the mean loss of their answers."""
        parts = []
        losses = []
        for fact in facts:
            tokens = backbone.question_tokens(fact.question, fact.answer, self.question_form)
            captured, loss = capture_rows(backbone, names, *tokens)
            for name, (keys, gradients) in captured.items():
                if not (keys.isfinite().all() and gradients.isfinite().all()):
                    raise MethodError(f"question {fact.question!r}: NaN or infinity at {name}; nothing was edited")
            parts.append(captured)
            losses.append(loss)
        rows = {
            name: (torch.cat([part[name][0] for part in parts]), torch.cat([part[name][1] for part in parts]))
            for name in names
        }
        return rows, sum(losses) / len(losses)

    def _added(self, factors: Factors, step: Factors) -> Factors:
        """The sum of two edits, recompressed."""
        added: Factors = {}
        for name, (down, up) in step.items():
            if name in factors:
                earlier_down, earlier_up = factors[name]
                down, up = torch.cat([earlier_down, down]), torch.cat([earlier_up, up], dim=1)
            added[name] = recompress(down, up, self.energy)
        return added


def edited(backbone: Backbone, factors: Factors) -> AbstractContextManager[None]:
    """The text encoder with an edit on it, as it will be stored."""
    if not factors:
        return nullcontext()
    return attached(backbone.text_encoder, Adapter.from_factors(factors), torch.float32)


def edit_step(rows: Rows, eta: float, neutral: Rows) -> Factors:
    """One closed-form step from captured rows: the factors of every module's change. `neutral` rows, which may be
    empty, count in the statistics only."""
    moments: dict[tuple[int, int], RunningMoments] = defaultdict(RunningMoments)
    for keys, gradients in [*rows.values(), *neutral.values()]:
        moments[keys.shape[1], gradients.shape[1]].update(torch.cat([keys, gradients], dim=1))
    return {
        name: edit_factors(keys, edit_values(keys, gradients, moments[keys.shape[1], gradients.shape[1]], eta))
        for name, (keys, gradients) in rows.items()
    }


def capture_rows(backbone: Backbone, names: Sequence[str], input_ids: Tensor, labels: Tensor) -> tuple[Rows, float]:
    """Inputs h (n, d_in) and output gradients g (n, d_out) of the layers `names` at the n answer positions, in fp32,
    and the mean cross-entropy of the answer.

    One forward and one backward; the graph begins at the first of the layers, and no weight gets a gradient.
    """
    positions = (labels[0] >= 0).nonzero().squeeze(1)
    with _probed(backbone.text_encoder, names) as probed, torch.enable_grad():
        logits = backbone.language_logits(input_ids)[0, positions].float()
        loss = torch.nn.functional.cross_entropy(logits, labels[0, positions])
        gradients = torch.autograd.grad(loss, [probed[name][1] for name in names])
    captured = {
        name: (probed[name][0][0, positions].float(), gradient[0, positions].float())
        for name, gradient in zip(names, gradients, strict=True)
    }
    return captured, float(loss.detach())


@contextmanager
def _probed(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """During the block every forward leaves each layer's input and a zero that was added to its output: the gradient
    with respect to that zero is the gradient at the output."""
    probed: dict[str, tuple[Tensor, Tensor]] = {}

    def probe(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            zero = torch.zeros_like(output, requires_grad=True)
            probed[name] = (arguments[0].detach(), zero)
            return output + zero

        return hook

    handles = [model.get_submodule(name).register_forward_hook(probe(name)) for name in names]
    try:
        yield probed
    finally:
        for handle in handles:
            handle.remove()
