"""Lumina-Image-2.0 (Alpha-VLLM): a single-stream DiT behind Gemma-2-2B, conditioned on its last hidden states but one.

A system prompt stands before the prompt and not before the negative one. Both are padded to 256 positions, which the
transformer is given a mask for. It predicts the way to the image, at a time that runs from noise (0) to image (1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.backbone.families.flux_vae import FluxVae, static_shift
from knowcusbench.backbone.family import Family
from knowcusbench.backbone.spec import DiffusersSpec
from knowcusbench.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LENGTH = 256
"""Positions of an embedding, the system prompt's included."""

STRIDE = 8
"""Pixels to a latent, which the pipeline takes for granted."""


class Lumina2(FluxVae):
    """Lumina-Image-2.0: any diffusers `Lumina2Pipeline`."""

    name = "Lumina-Image-2.0"
    pipeline_class = "Lumina2Pipeline"
    component_classes: ClassVar[Mapping[str, str]] = {
        "transformer": "Lumina2Transformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "Gemma2ForCausalLM",
    }
    headless_class = "Gemma2Model"
    # Those of diffusers' `train_dreambooth_lora_lumina2.py`, refiners included.
    lora_layers = ("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0")
    encoding: ClassVar[Mapping[str, Any]] = {"hidden_state": -2, "max_sequence_length": LENGTH}
    counted_tokens = LENGTH
    most_tokens = LENGTH

    def taps(self, layer_count: int) -> Sequence[int]:
        return (layer_count - 1,)

    def embeds_width(self, transformer: Mapping[str, Any]) -> int:
        return int(transformer["cap_feat_dim"])

    def template(self, pipeline: Any, question: str) -> str:
        return f"{pipeline.system_prompt} <Prompt Start> {question}"

    def encode(self, pipeline: Any, prompt: str, device: torch.device) -> PromptEmbeds:
        embeds, mask, *_ = pipeline.encode_prompt(prompt, device=device, do_classifier_free_guidance=False)
        return PromptEmbeds(embeds, mask)

    def encode_negative(self, pipeline: Any, prompt: str, device: torch.device) -> PromptEmbeds:
        *_, embeds, mask = pipeline.encode_prompt("", negative_prompt=prompt, device=device)
        return PromptEmbeds(embeds, mask)

    def check(self, pipeline: Any, source: str) -> None:
        found = self.pixels_per_latent(pipeline.vae.config)
        if found != STRIDE:
            raise WeightsError(
                f"backbone.source: the VAE of {source!r} has {found} pixels to a latent, {self.name}'s has {STRIDE}"
            )

    def conditions(self, prompt: PromptEmbeds, negative: PromptEmbeds | None, count: int) -> dict[str, Any]:
        given = {"prompt": prompt} | ({"negative_prompt": negative} if negative else {})
        repeated = {f"{name}_embeds": one.embeds.repeat(count, 1, 1) for name, one in given.items()}
        return repeated | {f"{name}_attention_mask": _mask(one).repeat(count, 1) for name, one in given.items()}

    def noise_shift(self, scheduler: Any) -> float:
        # Its trainer mixes `sigma * image + (1 - sigma) * noise`: the shift leans towards the image.
        return 1 / static_shift(scheduler)

    def predict(self, pipeline: Any, latents: Tensor, sigma: Tensor, prompt: PromptEmbeds) -> Tensor:
        count = len(latents)
        predicted: Tensor = pipeline.transformer(
            hidden_states=latents.to(prompt.embeds.dtype),
            timestep=1 - sigma,
            encoder_hidden_states=prompt.embeds.repeat(count, 1, 1),
            encoder_attention_mask=_mask(prompt).repeat(count, 1),
            return_dict=False,
        )[0]
        return -predicted

    def forward(self, transformer: Any, batch: int, tokens: int, rows: int, columns: int) -> Tensor:
        import torch

        config, rope = transformer.config, transformer.rope_embedder
        options: dict[str, Any] = {"device": "meta", "dtype": transformer.dtype}
        # It reads the number of tokens from the mask, and a mask without storage has none to read.
        rope.forward = lambda states, mask: type(rope).forward(
            rope, states, torch.ones(mask.shape, device="cpu", dtype=torch.long)
        )
        try:
            predicted: Tensor = transformer(
                hidden_states=torch.empty(batch, config.in_channels, 2 * rows, 2 * columns, **options),
                timestep=torch.empty(batch, device="meta"),
                encoder_hidden_states=torch.empty(batch, tokens, config.cap_feat_dim, **options),
                encoder_attention_mask=torch.empty(batch, tokens, device="meta", dtype=torch.bool),
                return_dict=False,
            )[0]
        finally:
            del rope.forward
        return predicted


def _mask(prompt: PromptEmbeds) -> Tensor:
    """The mask as the pipeline has it; there always is one."""
    assert prompt.mask is not None
    return prompt.mask


@dataclass(frozen=True, kw_only=True)
class Lumina2Spec(DiffusersSpec):
    """How Lumina-Image-2.0 is loaded and sampled: with guidance at all steps, renormalised, as the pipeline's defaults
    are."""

    family: ClassVar[Family] = Lumina2()
