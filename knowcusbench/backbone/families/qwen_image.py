"""Qwen-Image (arXiv 2508.02324): any diffusers `QwenImagePipeline`.

An MMDiT conditioned on the last hidden states of Qwen2.5-VL, which sees the prompt inside a chat template; a
convolutional VAE, made for video, whose latents are packed into tokens of 2 x 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from knowcusbench.backbone.base import LatentDistribution, PromptEmbeds
from knowcusbench.backbone.family import Family, Guidance
from knowcusbench.backbone.spec import DiffusersSpec
from knowcusbench.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class QwenImage(Family):
    """The family of Qwen-Image."""

    name = "Qwen-Image"
    pipeline_class = "QwenImagePipeline"
    component_classes: ClassVar[Mapping[str, str]] = {
        "transformer": "QwenImageTransformer2DModel",
        "vae": "AutoencoderKLQwenImage",
        "text_encoder": "Qwen2_5_VLForConditionalGeneration",
    }
    # Short names such as `gate_proj` also occur in the vision tower.
    decoder_layer = "model.language_model.layers.{}"
    # The image stream's attention projections, as in diffusers' DreamBooth trainer
    # (`examples/dreambooth/train_dreambooth_lora_qwen_image.py`). The text stream's are `add_{q,k,v}_proj`,
    # `to_add_out`.
    lora_layers = ("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0")
    guidance = Guidance("true_cfg_scale")
    most_tokens = 1024
    # The scheduler stretches the steps so that the last one ends at a given noise level; with a single step it divides
    # by zero.
    fewest_steps = 2

    def pixels_per_latent(self, vae: Mapping[str, Any]) -> int:
        return int(2 ** len(vae["temperal_downsample"]))

    def embeds_width(self, transformer: Mapping[str, Any]) -> int:
        return int(transformer["joint_attention_dim"])

    def latent_shape(self, vae: Mapping[str, Any], height: int, width: int) -> tuple[int, int, int]:
        stride = self.pixels_per_latent(vae)
        return int(vae["z_dim"]), height // stride, width // stride

    def template(self, pipeline: Any, question: str) -> str:
        text: str = pipeline.prompt_template_encode.format(question)
        return text

    def dropped_tokens(self, pipeline: Any) -> int:
        return int(pipeline.prompt_template_encode_start_idx)

    def encode(self, pipeline: Any, prompt: str, device: torch.device) -> PromptEmbeds:
        return PromptEmbeds(*pipeline.encode_prompt(prompt, max_sequence_length=self.most_tokens, device=device))

    def check(self, pipeline: Any, source: str) -> None:
        """Raise WeightsError for a tokenizer that is damaged or of another model: the pipeline drops a fixed number of
        template tokens in front of the prompt, and would drop part of the prompt, or keep part of the template."""
        prefix, _ = pipeline.prompt_template_encode.split("{}")
        found, wanted = len(pipeline.tokenizer(prefix)["input_ids"]), self.dropped_tokens(pipeline)
        if found != wanted:
            raise WeightsError(
                f"backbone.source: the tokenizer of {source!r} makes {found} tokens of the prompt template, "
                f"{self.name}'s makes {wanted}; copy the checkpoint again"
            )

    def conditions(self, prompt: PromptEmbeds, negative: PromptEmbeds | None, count: int) -> dict[str, Any]:
        embeds, mask = _repeat(prompt, count)
        conditions = {"prompt_embeds": embeds, "prompt_embeds_mask": mask}
        if negative is not None:
            embeds, mask = _repeat(negative, count)
            conditions |= {"negative_prompt_embeds": embeds, "negative_prompt_embeds_mask": mask}
        return conditions

    def start(self, pipeline: Any, noise: Tensor, dtype: torch.dtype) -> Tensor:
        return _packed(pipeline, noise.to(dtype))

    def joint_guidance(
        self, transformer: nn.Module, prompt: PromptEmbeds, negative: PromptEmbeds, scale: float
    ) -> AbstractContextManager[None]:
        from knowcusbench.backbone.families.qwen_image_guidance import joint_guidance

        return joint_guidance(transformer, prompt, negative, scale)

    def decoder_input(self, pipeline: Any, latents: Tensor, height: int, width: int) -> Tensor:
        vae = pipeline.vae
        unpacked = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor).to(vae.dtype)
        mean, std = (_statistics(vae, name, unpacked)[:, :, None] for name in ("latents_mean", "latents_std"))
        # As the pipeline itself computes it, to the last bit.
        normalised: Tensor = unpacked / (1.0 / std) + mean
        return normalised

    def pixels(self, decoded: Tensor) -> Tensor:
        return decoded[:, :, 0]

    def predict(self, pipeline: Any, latents: Tensor, sigma: Tensor, prompt: PromptEmbeds) -> Tensor:
        batch, _, height, width = latents.shape
        embeds, mask = _repeat(prompt, batch)
        predicted: Tensor = pipeline.transformer(
            hidden_states=_packed(pipeline, latents).to(embeds.dtype),
            timestep=sigma,
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=None if prompt.mask is None else mask,
            img_shapes=[[(1, height // 2, width // 2)]] * batch,
            return_dict=False,
        )[0]
        scale = pipeline.vae_scale_factor
        unpacked: Tensor = pipeline._unpack_latents(predicted, height * scale, width * scale, scale)
        return unpacked.squeeze(2)

    def posterior(self, vae: Any, pixels: Tensor) -> LatentDistribution:
        # The VAE is one for video: an image is a clip (1, 3, 1, height, width).
        posterior = vae.encode(pixels[:, :, None]).latent_dist
        mean, std = (_statistics(vae, name, posterior.mean.float()) for name in ("latents_mean", "latents_std"))
        return LatentDistribution(
            (posterior.mean[:, :, 0].float() - mean) / std,
            posterior.std[:, :, 0].float() / std,
        )

    def forward(self, transformer: Any, batch: int, tokens: int, rows: int, columns: int) -> Tensor:
        import torch

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, device="meta", dtype=transformer.dtype)

        config = transformer.config
        output: Tensor = transformer(
            hidden_states=empty(batch, rows * columns, config.in_channels),
            timestep=empty(batch),
            encoder_hidden_states=empty(batch, tokens, config.joint_attention_dim),
            img_shapes=[[(1, rows, columns)]] * batch,
            return_dict=False,
        )[0]
        return output

    def empty_decoder_input(self, vae: Any, batch: int, height: int, width: int) -> Tensor:
        import torch

        channels, rows, columns = self.latent_shape(vae.config, height, width)
        return torch.empty(batch, channels, 1, rows, columns, device="meta", dtype=vae.dtype)


@dataclass(frozen=True, kw_only=True)
class QwenImageSpec(DiffusersSpec):
    """How Qwen-Image is loaded and sampled.

    Attributes:
        negative_prompt: what guidance leads away from; a blank is Qwen-Image's own choice.
        joint_guidance: compute the prompt and the negative prompt in one batch of twice the size, which is faster where
            a batch is small. The shorter of the two is padded, which moves pixels by rounding.
    """

    family: ClassVar[Family] = QwenImage()

    negative_prompt: str = " "
    joint_guidance: bool = False


def _packed(pipeline: Any, latents: Tensor) -> Tensor:
    """Return latents as tokens of 2 x 2: (images, tokens, 4 channels)."""
    packed: Tensor = pipeline._pack_latents(latents, *latents.shape)
    return packed


def _statistics(vae: Any, name: str, like: Tensor) -> Tensor:
    """Return the VAE's mean or standard deviation of each channel, (1, channels, 1, 1)."""
    import torch

    values = torch.tensor(getattr(vae.config, name)).view(1, vae.config.z_dim, 1, 1)
    return values.to(like.device, like.dtype)


def _repeat(prompt_embeds: PromptEmbeds, count: int) -> tuple[Tensor, Tensor]:
    """Return embeddings and mask of one prompt for a batch; an explicit mask of ones stands for "no mask"."""
    import torch

    embeds = prompt_embeds.embeds
    mask = prompt_embeds.mask
    if mask is None:
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    return embeds.expand(count, -1, -1), mask.expand(count, -1)
