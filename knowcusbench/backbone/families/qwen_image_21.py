"""Qwen-Image-2.1: a single-stream, block-causal DiT behind Qwen3-VL-8B, conditioned on its last states before the norm.

Latents of 16 pixels with 64 channels, not cut into patches. Pictures have an alpha channel, which is opaque in and
dropped out. The transformer keeps text's keys and values from step to step, which training can't: last bits differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from knowcusbench.backbone.base import LatentDistribution, PromptEmbeds
from knowcusbench.backbone.family import Family, Guidance
from knowcusbench.backbone.spec import DiffusersSpec
from knowcusbench.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STRIDE = 16
"""Pixels to a latent, which the pipeline takes for granted."""


class QwenImage21(Family):
    """Qwen-Image-2.1: any diffusers `QwenImage21Pipeline` without sampling levels of its own."""

    name = "Qwen-Image-2.1"
    pipeline_class = "QwenImage21Pipeline"
    component_classes: ClassVar[Mapping[str, str]] = {
        "transformer": "QwenImage21Transformer2DModel",
        "vae": "AutoencoderKLQwenImage21",
        "text_encoder": "Qwen3VLForConditionalGeneration",
    }
    decoder_layer = "model.language_model.layers.{}"
    # Those of diffusers' `train_dreambooth_lora_qwen_image.py`.
    lora_layers = ("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0")
    guidance = Guidance("true_cfg_scale")
    # The pipeline cuts nothing off: what the text encoder takes.
    most_tokens = 262_144
    # The scheduler stretches the steps, as Qwen-Image's.
    fewest_steps = 2

    def pixels_per_latent(self, vae: Mapping[str, Any]) -> int:
        return STRIDE

    def embeds_width(self, transformer: Mapping[str, Any]) -> int:
        return int(transformer["context_in_dim"])

    def latent_shape(self, vae: Mapping[str, Any], height: int, width: int) -> tuple[int, int, int]:
        return int(vae["z_dim"]), height // STRIDE, width // STRIDE

    def tokenizer(self, pipeline: Any) -> Any:
        return pipeline.processor.tokenizer

    def template(self, pipeline: Any, question: str) -> str:
        text: str = pipeline.prompt_template_t2i.format(question)
        return text

    def dropped_tokens(self, pipeline: Any) -> int:
        return int(pipeline._drop_idx)

    def encode(self, pipeline: Any, prompt: str, device: torch.device) -> PromptEmbeds:
        embeds, mask, _ = pipeline.encode_prompt(prompt, device=device)
        return PromptEmbeds(embeds.contiguous(), mask)

    def check(self, pipeline: Any, source: str) -> None:
        system, _, _ = pipeline.prompt_template_t2i.partition("<|im_start|>user")
        found, dropped = len(self.tokenizer(pipeline)(system)["input_ids"]), self.dropped_tokens(pipeline)
        if found != dropped:
            raise WeightsError(
                f"backbone.source: the processor of {source!r} drops {dropped} tokens of the prompt template, its "
                f"system prompt has {found}; copy the checkpoint again"
            )
        if levels := pipeline.config.sample_sigmas:
            raise WeightsError(
                f"backbone.source: {source!r} is distilled for {len(levels)} noise levels of its own (sample_sigmas in "
                "model_index.json), which backbone.steps can't change; take Qwen/Qwen-Image-2.1"
            )

    def conditions(self, prompt: PromptEmbeds, negative: PromptEmbeds | None, count: int) -> dict[str, Any]:
        given = {"prompt_embeds": prompt.embeds.repeat(count, 1, 1)}
        return given | ({"negative_prompt_embeds": negative.embeds.repeat(count, 1, 1)} if negative else {})

    def start(self, pipeline: Any, noise: Tensor, dtype: torch.dtype) -> Tensor:
        return noise.to(dtype).flatten(2).transpose(1, 2)

    def decoder_input(self, pipeline: Any, latents: Tensor, height: int, width: int) -> Tensor:
        vae = pipeline.vae
        unpacked: Tensor = pipeline._unpack_latents(latents, height, width, STRIDE).to(vae.dtype)
        mean, std = (statistic.to(unpacked) for statistic in _statistics(vae))
        return unpacked * std + mean

    def pixels(self, decoded: Tensor) -> Tensor:
        return decoded[:, :3, 0]

    def predict(self, pipeline: Any, latents: Tensor, sigma: Tensor, prompt: PromptEmbeds) -> Tensor:
        embeds = prompt.embeds.repeat(len(latents), 1, 1)
        packed = latents.flatten(2).transpose(1, 2).to(embeds.dtype)
        velocity = _velocity(pipeline.transformer, packed, sigma.to(embeds.dtype), embeds, *latents.shape[2:])
        return velocity.transpose(1, 2).reshape(latents.shape)

    def posterior(self, vae: Any, pixels: Tensor) -> LatentDistribution:
        import torch

        opaque = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
        latents = vae.encode(opaque[:, :, None]).latent_dist
        mean, std = (statistic.to(pixels.device) for statistic in _statistics(vae))
        return LatentDistribution(((latents.mean.float() - mean) / std)[:, :, 0], (latents.std.float() / std)[:, :, 0])

    def forward(self, transformer: Any, batch: int, tokens: int, rows: int, columns: int) -> Tensor:
        import torch

        # The blocks are given masks that the model looks through before, and that therefore have storage. The hooks
        # stay for a recomputation.
        for module in (*transformer.transformer_blocks, transformer.norm_out):
            module.register_forward_pre_hook(_without_storage, with_kwargs=True)
        # A token of ours is a slot of the language model: 2 x 2 latents.
        options: dict[str, Any] = {"device": "meta", "dtype": transformer.dtype}
        packed = torch.empty(batch, 4 * rows * columns, transformer.config.in_channels, **options)
        embeds = torch.empty(batch, tokens, transformer.config.context_in_dim, **options)
        return _velocity(transformer, packed, torch.empty(batch, **options), embeds, 2 * rows, 2 * columns)

    def empty_decoder_input(self, vae: Any, batch: int, height: int, width: int) -> Tensor:
        import torch

        shape = (batch, vae.config.z_dim, 1, height // STRIDE, width // STRIDE)
        return torch.empty(shape, device="meta", dtype=vae.dtype)


def _without_storage(_: Any, args: Any, kwargs: Any) -> Any:
    """The arguments of a module with all tensors on the meta device."""
    from torch import Tensor
    from torch.utils._pytree import tree_map_only

    return tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))


def _velocity(transformer: Any, packed: Tensor, sigma: Tensor, embeds: Tensor, rows: int, columns: int) -> Tensor:
    """The transformer's prediction for packed latents (batch, rows * columns, channels)."""
    import torch

    text, image = embeds.shape[1], rows * columns
    # One slot for 2 x 2 latents, behind the text. It is looked through, so it needs storage also in counting.
    slots = torch.arange(text + image // 4, device="cpu" if packed.is_meta else packed.device) >= text
    predicted: Tensor = transformer(
        hidden_states=packed,
        timestep=sigma,
        encoder_hidden_states=embeds,
        img_shapes=[[(1, rows, columns)]] * len(packed),
        img_mask=slots.expand(len(packed), -1),
        return_dict=False,
    )[0]
    return predicted[:, -image:]


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents, by channel."""
    import torch

    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


@dataclass(frozen=True, kw_only=True)
class QwenImage21Spec(DiffusersSpec):
    """How Qwen-Image-2.1 is loaded and sampled. It is distilled to be drawn without guidance."""

    family: ClassVar[Family] = QwenImage21()

    true_cfg_scale: float = 1.0
    negative_prompt: str = " "
