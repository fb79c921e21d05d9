"""Z-Image (Tongyi-MAI): a single-stream DiT behind Qwen3-4B, conditioned on its last hidden states but one.

Its transformer predicts the way to the image, at a time that runs from noise (0) to image (1). It takes lists of
embeddings without padding, and computes the prompt and the negative prompt in one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.backbone.families.flux_vae import FluxVae, static_shift
from knowcusbench.backbone.families.qwen3_chat import Qwen3Chat
from knowcusbench.backbone.family import Family, Guidance
from knowcusbench.backbone.spec import DiffusersSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MULTIPLE = 32
"""The transformer pads text and image to multiples of so many tokens."""


class ZImage(Qwen3Chat, FluxVae):
    """Z-Image, base or Turbo: any diffusers `ZImagePipeline`."""

    name = "Z-Image"
    pipeline_class = "ZImagePipeline"
    component_classes: ClassVar[Mapping[str, str]] = {
        "transformer": "ZImageTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "Qwen3ForCausalLM",
    }
    headless_class = "Qwen3Model"
    # Those of diffusers' `train_dreambooth_lora_z_image.py`, refiners included.
    lora_layers = ("attention.to_k", "attention.to_q", "attention.to_v", "attention.to_out.0")
    guidance = Guidance("guidance_scale", off=0.0, joint=True)
    thinks = True
    encoding: ClassVar[Mapping[str, Any]] = {"hidden_state": -2, "max_sequence_length": 512}

    def taps(self, layer_count: int) -> Sequence[int]:
        return (layer_count - 1,)

    def embeds_width(self, transformer: Mapping[str, Any]) -> int:
        return int(transformer["cap_feat_dim"])

    def encode(self, pipeline: Any, prompt: str, device: torch.device) -> PromptEmbeds:
        embeds, _ = pipeline.encode_prompt(prompt, device=device, do_classifier_free_guidance=False)
        return PromptEmbeds(embeds[0][None], None)

    def conditions(self, prompt: PromptEmbeds, negative: PromptEmbeds | None, count: int) -> dict[str, Any]:
        given = {"prompt_embeds": [prompt.embeds[0]] * count}
        return given | ({"negative_prompt_embeds": [negative.embeds[0]] * count} if negative else {})

    def start(self, pipeline: Any, noise: Tensor, dtype: torch.dtype) -> Tensor:
        # The pipeline steps in fp32.
        return noise

    def noise_shift(self, scheduler: Any) -> float:
        return static_shift(scheduler)

    def predict(self, pipeline: Any, latents: Tensor, sigma: Tensor, prompt: PromptEmbeds) -> Tensor:
        import torch

        embeds = prompt.embeds[0]
        images = list(latents.to(embeds.dtype)[:, :, None].unbind())
        predicted: list[Tensor] = pipeline.transformer(images, 1 - sigma, [embeds] * len(images), return_dict=False)[0]
        return -torch.stack(predicted)[:, :, 0]

    def forward(self, transformer: Any, batch: int, tokens: int, rows: int, columns: int) -> Tensor:
        import torch

        config = transformer.config
        options: dict[str, Any] = {"device": "meta", "dtype": transformer.dtype}
        images = [torch.empty(config.in_channels, 1, 2 * rows, 2 * columns, **options) for _ in range(batch)]
        prompts = [torch.empty(tokens, config.cap_feat_dim, **options) for _ in range(batch)]
        predicted = transformer(images, torch.empty(batch, device="meta"), prompts, return_dict=False)[0]
        return torch.stack(predicted)


@dataclass(frozen=True, kw_only=True)
class ZImageSpec(DiffusersSpec):
    """How Z-Image is loaded and sampled.

    Attributes:
        true_cfg_scale: strength s of classifier-free guidance, `positive + s (positive - negative)`; 0 is off.
    """

    family: ClassVar[Family] = ZImage()
