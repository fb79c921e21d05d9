"""FLUX.2 [klein] (Black Forest Labs): a DiT of double and single streams, conditioned on three depths of Qwen3.

The prompt is padded to 512 positions that the transformer sees without a mask, so padding conditions, too. Latents are
2 x 2 patches of the VAE's, normalised by the running statistics of a batch norm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from knowcusbench.backbone.base import LatentDistribution, PromptEmbeds
from knowcusbench.backbone.families.qwen3_chat import Qwen3Chat
from knowcusbench.backbone.family import Family
from knowcusbench.backbone.spec import DiffusersSpec
from knowcusbench.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from knowcusbench.backbone.resident import DiffusersBackbone

TAPS = (9, 18, 27)
"""The entries of the text encoder's hidden states that an embedding is made of."""

LENGTH = 512
"""Positions of an embedding."""


class Flux2Klein(Qwen3Chat):
    """FLUX.2 [klein], base or distilled, 4B or 9B: any diffusers `Flux2KleinPipeline`."""

    name = "FLUX.2 [klein]"
    pipeline_class = "Flux2KleinPipeline"
    component_classes: ClassVar[Mapping[str, str]] = {
        "transformer": "Flux2Transformer2DModel",
        "vae": "AutoencoderKLFlux2",
        "text_encoder": "Qwen3ForCausalLM",
    }
    # Those of diffusers' `train_dreambooth_lora_flux2_klein.py`.
    lora_layers = (
        *("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"),
        *("attn.to_qkv_mlp_proj", "attn.to_out"),
    )
    thinks = False
    encoding: ClassVar[Mapping[str, Any]] = {"text_encoder_out_layers": TAPS, "max_sequence_length": LENGTH}
    counted_tokens = LENGTH
    most_tokens = LENGTH

    def taps(self, layer_count: int) -> Sequence[int]:
        return TAPS

    def embeds_width(self, transformer: Mapping[str, Any]) -> int:
        return int(transformer["joint_attention_dim"])

    def latent_shape(self, vae: Mapping[str, Any], height: int, width: int) -> tuple[int, int, int]:
        channels, rows, columns = super().latent_shape(vae, height, width)
        return 4 * channels, rows // 2, columns // 2

    def encode(self, pipeline: Any, prompt: str, device: torch.device) -> PromptEmbeds:
        embeds, _ = pipeline.encode_prompt(prompt, device=device)
        tokens = pipeline.tokenizer(
            self.template(pipeline, prompt),
            padding="max_length",
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        )
        return PromptEmbeds(embeds, tokens.attention_mask.to(device))

    def check(self, pipeline: Any, source: str) -> None:
        super().check(pipeline, source)
        layers = pipeline.text_encoder.config.num_hidden_layers
        if layers < max(TAPS):
            raise WeightsError(
                f"backbone.source: the text encoder of {source!r} has {layers} layers, {self.name} is conditioned on "
                f"layer {max(TAPS)}; copy the checkpoint again"
            )

    def conditions(self, prompt: PromptEmbeds, negative: PromptEmbeds | None, count: int) -> dict[str, Any]:
        given = {"prompt_embeds": prompt.embeds.repeat(count, 1, 1)}
        return given | ({"negative_prompt_embeds": negative.embeds.repeat(count, 1, 1)} if negative else {})

    def decoder_input(self, pipeline: Any, latents: Tensor, height: int, width: int) -> Tensor:
        # The pipeline has undone normalisation and patches.
        return latents.to(pipeline.vae.dtype)

    def predict(self, pipeline: Any, latents: Tensor, sigma: Tensor, prompt: PromptEmbeds) -> Tensor:
        embeds = prompt.embeds.repeat(len(latents), 1, 1)
        predicted: Tensor = pipeline.transformer(
            hidden_states=pipeline._pack_latents(latents).to(embeds.dtype),
            timestep=sigma.to(embeds.dtype),
            encoder_hidden_states=embeds,
            txt_ids=pipeline._prepare_text_ids(embeds).to(latents.device),
            img_ids=pipeline._prepare_latent_ids(latents).to(latents.device),
            return_dict=False,
        )[0]
        return predicted.transpose(1, 2).reshape(latents.shape)

    def posterior(self, vae: Any, pixels: Tensor) -> LatentDistribution:
        import torch
        from torch.nn.functional import pixel_unshuffle

        latents = vae.encode(pixels).latent_dist
        mean = vae.bn.running_mean.float().view(1, -1, 1, 1)
        std = torch.sqrt(vae.bn.running_var.float().view(1, -1, 1, 1) + vae.config.batch_norm_eps)
        return LatentDistribution(
            (pixel_unshuffle(latents.mean.float(), 2) - mean) / std, pixel_unshuffle(latents.std.float(), 2) / std
        )

    def forward(self, transformer: Any, batch: int, tokens: int, rows: int, columns: int) -> Tensor:
        import torch

        config, image = transformer.config, rows * columns
        options: dict[str, Any] = {"device": "meta", "dtype": transformer.dtype}
        predicted: Tensor = transformer(
            hidden_states=torch.empty(batch, image, config.in_channels, **options),
            timestep=torch.empty(batch, **options),
            encoder_hidden_states=torch.empty(batch, tokens, config.joint_attention_dim, **options),
            txt_ids=torch.empty(batch, tokens, 4, device="meta", dtype=torch.long),
            img_ids=torch.empty(batch, image, 4, device="meta", dtype=torch.long),
            return_dict=False,
        )[0]
        return predicted


@dataclass(frozen=True, kw_only=True)
class Flux2KleinSpec(DiffusersSpec):
    """How FLUX.2 [klein] is loaded and sampled.

    Attributes:
        true_cfg_scale: strength of classifier-free guidance; 1 is off, which distilled checkpoints need.
        negative_prompt: what guidance leads away from; the pipeline's own is empty.
    """

    family: ClassVar[Family] = Flux2Klein()

    def load(self) -> DiffusersBackbone:
        drawing = self.drawing_checkpoint() or self.checkpoint(weights=True)
        index = json.loads((drawing.directory / "model_index.json").read_text(encoding="utf-8"))
        # The pipeline would draw without guidance and say so in a log line.
        if self.is_guided and index.get("is_distilled"):
            raise ConfigError(
                f"backbone.true_cfg_scale: {drawing.source!r} is distilled and draws without guidance; expected 1, "
                f"found {self.true_cfg_scale:g}"
            )
        return super().load()
