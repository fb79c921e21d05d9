"""Qwen-Image's classifier-free guidance with the prompt and the negative prompt in one batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from knowcusbench.backbone.base import PromptEmbeds


def guided(positive: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Qwen-Image's guidance: `negative + scale (positive - negative)`, with each token's norm that of `positive`. All
    are (batch, tokens, channels)."""
    combined = negative + scale * (positive - negative)
    rescaled: Tensor = combined * (
        torch.norm(positive, dim=-1, keepdim=True) / torch.norm(combined, dim=-1, keepdim=True)
    )
    return rescaled


@contextmanager
def joint_guidance(
    transformer: nn.Module, positive: PromptEmbeds, negative: PromptEmbeds, scale: float
) -> Iterator[None]:
    """During the block a forward of the transformer predicts with guidance: for a batch of latents it computes one of
    twice the size, half of it for either prompt, whatever prompt it is given.

    The shorter prompt is padded, and what fills it up is masked.
    """
    pair = [positive, negative]
    length = max(prompt.embeds.shape[1] for prompt in pair)
    embeds = torch.cat([_filled(prompt.embeds, length) for prompt in pair])
    mask = torch.cat([_filled(_mask(prompt)[..., None], length)[..., 0] for prompt in pair])

    def double(_: nn.Module, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        count = len(options["hidden_states"])
        twice = {
            name: options[name].repeat(2, *[1] * (options[name].ndim - 1)) for name in ("hidden_states", "timestep")
        }
        prompts = {
            "encoder_hidden_states": embeds.repeat_interleave(count, 0),
            "encoder_hidden_states_mask": None if mask.all() else mask.repeat_interleave(count, 0),
        }
        return arguments, {**options, **twice, **prompts, "img_shapes": 2 * options["img_shapes"]}

    def combine(_: nn.Module, __: Any, output: tuple[Tensor]) -> tuple[Tensor]:
        conditional, unconditional = output[0].chunk(2)
        return (guided(conditional, unconditional, scale),)

    handles = [
        transformer.register_forward_pre_hook(double, with_kwargs=True),
        transformer.register_forward_hook(combine),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mask(prompt: PromptEmbeds) -> Tensor:
    """True where a position of the prompt counts, (1, length)."""
    if prompt.mask is not None:
        return prompt.mask.bool()
    return torch.ones(prompt.embeds.shape[:2], dtype=torch.bool, device=prompt.embeds.device)


def _filled(values: Tensor, length: int) -> Tensor:
    """Values (1, n, dim) with zeros behind them, up to `length`."""
    return nn.functional.pad(values, (0, 0, 0, length - values.shape[1]))
