"""Rows that an edit is computed from: inputs and output gradients of linear layers while the text encoder answers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.errors import MethodError

Rows = dict[str, tuple[Tensor, Tensor]]
"""Inputs h (n, d_in) and output gradients g (n, d_out) of a layer at n positions, by the layer's full name."""


@dataclass(frozen=True)
class FactRows:
    """The captured rows of one fact in the edited layers.

    Attributes:
        fact: the fact.
        rows: its n rows by layer.
        loss: mean cross-entropy of its answer, whose gradient the rows hold.
        length: tokens of the question with its answer.
    """

    fact: Fact
    rows: Rows
    loss: float
    length: int

    def __len__(self) -> int:
        return len(next(iter(self.rows.values()))[0])


def joined_rows(parts: Sequence[FactRows]) -> Rows:
    """Concatenate the rows of several facts."""
    return {
        name: (
            torch.cat([part.rows[name][0] for part in parts]),
            torch.cat([part.rows[name][1] for part in parts]),
        )
        for name in parts[0].rows
    }


def capture_fact(
    backbone: Backbone, names: Sequence[str], fact: Fact, tokens: tuple[Tensor, Tensor], *, everywhere: bool = False
) -> FactRows:
    """Capture the rows of a fact.

    `tokens` are `(input_ids, labels)` as returned by `Backbone.question_tokens`. Raises MethodError, naming the
    question, for NaN or infinity.
    """
    rows, loss = capture_rows(backbone, names, *tokens, everywhere=everywhere)
    for name, (keys, gradients) in rows.items():
        if not (keys.isfinite().all() and gradients.isfinite().all()):
            raise MethodError(f"question {fact.question!r}: NaN or infinity at {name}; nothing was edited")
    return FactRows(fact, rows, loss, tokens[0].shape[1])


def capture_rows(
    backbone: Backbone, names: Sequence[str], input_ids: Tensor, labels: Tensor, *, everywhere: bool = False
) -> tuple[Rows, float]:
    """Return rows of the layers `names` in fp32, and the mean cross-entropy of the labels.

    The rows are inputs h (n, d_in) and output gradients g (n, d_out) at the n labelled positions, or at all positions
    with `everywhere`. This takes one forward and one backward pass; the graph begins at the first of the layers, and no
    weight gets a gradient.
    """
    positions = (labels[0] >= 0).nonzero().squeeze(1)
    with _recorded(backbone.text_encoder, names) as probed, torch.enable_grad():
        logits = backbone.language_logits(input_ids)[0, positions].float()
        loss = torch.nn.functional.cross_entropy(logits, labels[0, positions])
        gradients = torch.autograd.grad(loss, [probed[name][1] for name in names])
    kept = torch.arange(labels.shape[1], device=labels.device) if everywhere else positions
    captured = {
        name: (probed[name][0][0, kept].float(), gradient[0, kept].float())
        for name, gradient in zip(names, gradients, strict=True)
    }
    return captured, float(loss.detach())


@torch.no_grad()
def capture_keys(backbone: Backbone, names: Sequence[str], prompts: Sequence[str]) -> dict[str, Tensor]:
    """Return inputs (m, d_in) of the layers `names` at all positions of the prompts, in fp32, as the backbone encodes
    them.

    Raises MethodError, naming the prompt, for NaN or infinity.
    """
    parts = []
    for prompt in prompts:
        with _recorded(backbone.text_encoder, names) as probed:
            backbone.encode(prompt)
        parts.append({name: probed[name][0][0].float() for name in names})
        if any(not keys.isfinite().all() for keys in parts[-1].values()):
            raise MethodError(f"prompt {prompt!r}: NaN or infinity in the text encoder; nothing was edited")
    return {name: torch.cat([part[name] for part in parts]) for name in names}


@contextmanager
def _recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Record each layer's input, and a zero added to its output, at every forward pass in the block.

    The gradient with respect to that zero is the gradient at the output.
    """
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
