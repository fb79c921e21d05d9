"""Gradient fine-tuning of the text encoder on questions and answers: the second stage of the Enc-FT baseline."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tqdm import trange

from knowcusbench.adaptation.losses import Losses
from knowcusbench.adapters.cost import measured
from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.base import Backbone, QuestionForm
from knowcusbench.benchmark.types import Fact
from knowcusbench.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EncoderTuning:
    """LoRA fine-tuning of the language model on the cross-entropy of the answers; every step sees all facts.

    The paper does not state the baseline's settings; ours are in the recipes.

    Attributes:
        steps: optimiser steps.
        learning_rate: constant learning rate of AdamW.
        rank, alpha: rank and alpha of the LoRA.
        modules: short names of the tuned linear layers.
        layers: tuned decoder layers; None for all.
        question_form: how the question is put to the text encoder.
        weight_decay, max_grad_norm: AdamW's weight decay, and the clipping norm of the gradient.
        seed: seed of the LoRA's initialisation.
        version: raised by the author when the same settings give other adapters.
    """

    version: ClassVar[int] = 1

    steps: int
    learning_rate: float
    rank: int
    alpha: float
    modules: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    question_form: QuestionForm = QuestionForm.chat
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    seed: int = 42

    def __post_init__(self) -> None:
        if min(self.steps, self.rank) < 1:
            raise ConfigError(
                f"encoder_tuning: expected steps and rank of at least 1, found steps={self.steps}, rank={self.rank}"
            )

    def fit(self, facts: Sequence[Fact], backbone: Backbone) -> Adaptation:
        """Return an adaptation of the text encoder, with the cost of stage "textual".

        Raises MethodError, naming the first question, for a training that diverges.
        """
        import torch

        from knowcusbench.adapters.lora import extract, trainable

        with measured("textual", backbone.device) as meter:
            layers = range(backbone.layer_count) if self.layers is None else self.layers
            targets = backbone.text_modules(self.modules, tuple(layers))
            batch = [backbone.question_tokens(fact.question, fact.answer, self.question_form) for fact in facts]
            losses = Losses(f"question {facts[0].question!r}", "recipe.encoder_tuning.learning_rate")
            lora = trainable(backbone.text_encoder, targets, self.rank, self.alpha, self.seed, dtype=torch.float32)
            with lora as parameters:
                optimizer = torch.optim.AdamW(
                    parameters.values(), lr=self.learning_rate, weight_decay=self.weight_decay
                )
                for _ in trange(self.steps, desc="encoder tuning", leave=False, disable=None):
                    total = 0.0
                    for input_ids, labels in batch:
                        logits = backbone.language_logits(input_ids)[0].float()
                        loss = torch.nn.functional.cross_entropy(logits, labels[0]) / len(batch)
                        loss.backward()  # type: ignore[no-untyped-call]
                        total += float(loss.detach())
                    torch.nn.utils.clip_grad_norm_(parameters.values(), self.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                    losses.add(torch.tensor(total, dtype=torch.float64))
                adapter = losses.trained(extract(backbone.text_encoder))
        backbone.check_intact()
        details = {
            "encoder_tuning_first_loss": losses.mean(slice(1)),
            "encoder_tuning_last_loss": losses.mean(slice(-1, None)),
        }
        return Adaptation(text_encoder=adapter, cost=meter.cost, details=details)
