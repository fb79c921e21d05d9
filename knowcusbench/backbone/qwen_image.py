"""Qwen-Image (arXiv 2508.02324) as a backbone: any diffusers `QwenImagePipeline`.

An MMDiT conditioned on the last hidden states of Qwen2.5-VL, which sees the prompt inside a chat template; a
convolutional VAE whose latents are packed into tokens of 2 x 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from knowcusbench.backbone.base import BackboneSpec, Footprint, Memory, Skeleton
from knowcusbench.backbone.checkpoint import Checkpoint, open_checkpoint
from knowcusbench.backbone.counts import PROMPT_TOKENS, TRAINING_FORWARDS, Counts, counts_of, weight_bytes
from knowcusbench.backbone.published import published_checkpoint, published_shapes
from knowcusbench.backbone.quantization import BYTES_PER_PARAMETER, Quantization
from knowcusbench.backbone.step_lora import StepLora
from knowcusbench.errors import ConfigError
from knowcusbench.storage.hub_cache import cached
from knowcusbench.storage.versions import SPEED

if TYPE_CHECKING:
    import torch

    from knowcusbench.backbone.qwen_image_model import QwenImage

Offload = Literal["none", "text_encoder", "alternating"]

BYTES = {"auto": 2, "bfloat16": 2, "float32": 4}
"""Of a number, by dtype."""


@dataclass(frozen=True, kw_only=True)
class QwenImageSpec(BackboneSpec):
    """How Qwen-Image is loaded and sampled.

    Attributes:
        source: a diffusers directory or a hub id.
        revision: commit, tag or branch of a hub id.
        dtype: of all weights. "auto" is what the device is fast in; a run settles it before it builds a backbone, and
            `footprint` and `memory` count it as bfloat16.
        device: "auto" takes a GPU if there is one.
        height, width: of the images, in pixels.
        steps: denoising steps; the scheduler is used as shipped.
        true_cfg_scale: classifier-free guidance, at least 1; 1 switches it off and halves the cost.
        negative_prompt: what guidance leads away from; a blank is Qwen-Image's own choice.
        joint_guidance: compute the prompt and the negative prompt in one batch of twice the size, which is faster where
            a batch is small. The shorter of the two is padded, which moves pixels by rounding.
        seeds_per_batch: how many seeds of a prompt are drawn at once at most. On a GPU it can change the last bits of
            an image, so it is part of what makes two runs the same.
        gradient_checkpointing: trade a third more time for about half of the memory in training.
        attention: diffusers' name of an attention backend ("_native_cudnn", "flash_hub", ...); null takes torch's
            choice.
        compile: a torch.compile backend ("inductor") for the transformer's blocks; null runs them as they are. The
            first image of a process waits for the compiler. Adapters of the same rank share the compiled code.
        vae_slicing: decode the images of a batch one after another: a fifth of the memory for five of them, at no cost
            in time on a GPU. It can change the last bits of an image.
        vae_tile: height and width of the tiles that the VAE works in, in pixels, which bounds its memory; null takes
            the image whole. Neighbouring tiles overlap by a quarter and are blended.
        offload: what waits in main memory. "text_encoder": the text encoder, while the transformer works.
            "alternating": whichever of the two is not at work.
        quantization: of the transformer's weights. The text encoder, which is edited, stays as it is.
        step_lora: draw with a step-distilled LoRA; `steps` and `true_cfg_scale` are those it was distilled for.
    """

    source: str
    revision: str | None = None
    dtype: Literal["auto", "bfloat16", "float32"] = "bfloat16"
    device: str = field(default="auto", metadata=SPEED)
    height: int = 1024
    width: int = 1024
    steps: int = 50
    true_cfg_scale: float = 4.0
    negative_prompt: str = " "
    joint_guidance: bool = False
    seeds_per_batch: int = 5
    gradient_checkpointing: bool = field(default=True, metadata=SPEED)
    attention: str | None = None
    compile: str | None = None
    vae_slicing: bool = True
    vae_tile: int | None = None
    offload: Offload = field(default="none", metadata=SPEED)
    quantization: Quantization | None = None
    step_lora: StepLora | None = None

    def __post_init__(self) -> None:
        # Qwen-Image's scheduler stretches the steps so that the last one ends at a given noise level; with a
        # single step it divides by zero.
        if self.steps < 2:
            raise ConfigError(f"backbone.steps: expected at least 2, found {self.steps}")
        if self.seeds_per_batch < 1:
            raise ConfigError(f"backbone.seeds_per_batch: expected at least 1, found {self.seeds_per_batch}")
        if min(self.height, self.width) < 1:
            raise ConfigError(f"backbone.height, width: expected pixels, found {self.height} x {self.width}")
        if not 1 <= self.true_cfg_scale < math.inf:
            raise ConfigError(f"backbone.true_cfg_scale: expected a number of at least 1, found {self.true_cfg_scale}")
        if self.vae_tile is not None and (self.vae_tile < 32 or self.vae_tile % 32):
            # A quarter of a tile, its overlap, must be whole latents.
            raise ConfigError(f"backbone.vae_tile: expected a multiple of 32 pixels, found {self.vae_tile}")

    def load(self) -> "QwenImage":
        # Here and below, since a command that only plans does without torch.
        from knowcusbench.backbone.qwen_image_model import load_qwen_image

        return load_qwen_image(self)

    @property
    def torch_dtype(self) -> "torch.dtype":
        """Of the weights, as they are counted."""
        import torch

        return torch.float32 if self.dtype == "float32" else torch.bfloat16

    def footprint(self, kept: Path | None = None) -> Footprint:
        checkpoint = self.checkpoint(weights=False)
        counts = self._counts(checkpoint, kept)
        forwards = self.steps * (2 if self.true_cfg_scale > 1 else 1)
        return Footprint(
            parameters=counts.parameters,
            weight_bytes=self._weight_bytes(counts),
            image_flops=forwards * counts.forward_flops + counts.decode_flops,
            training_step_flops=TRAINING_FORWARDS * counts.forward_flops,
            prompt_tokens=PROMPT_TOKENS,
            prompt_embeds_bytes=PROMPT_TOKENS * checkpoint.transformer["joint_attention_dim"] * BYTES[self.dtype],
            image_size=(self.height, self.width),
        )

    def _counts(self, checkpoint: Checkpoint, kept: Path | None = None) -> Counts:
        return counts_of(checkpoint, height=self.height, width=self.width, kept=kept)

    def _weight_bytes(self, counts: Counts) -> dict[str, int]:
        return weight_bytes(counts.parameters, BYTES[self.dtype], BYTES_PER_PARAMETER.get(self.quantization))

    def memory(self, lora_rank: int) -> Memory:
        from knowcusbench.backbone.memory import drawing_bytes, training_bytes

        checkpoint = self.checkpoint(weights=False)
        size: dict[str, Any] = {"dtype": self.torch_dtype, "height": self.height, "width": self.width}
        drawing = drawing_bytes(
            checkpoint,
            **size,
            batch=self.seeds_per_batch * (2 if self.joint_guidance else 1),
            decoded=1 if self.vae_slicing else self.seeds_per_batch,
            vae_tile=self.vae_tile,
        )
        training = training_bytes(checkpoint, **size, rank=lora_rank, checkpointing=self.gradient_checkpointing)
        weights = self._weight_bytes(self._counts(checkpoint))
        transformer = weights["transformer"] + weights["vae"]
        encoder = weights["text_encoder"] + weights["vae"]
        if self.offload == "none":
            transformer += weights["text_encoder"]
        if self.offload != "alternating":
            encoder += weights["transformer"]
        return Memory(encoding=encoder, drawing=transformer + drawing, training=transformer + training)

    def waiting(self) -> int:
        weights = self._weight_bytes(self._counts(self.checkpoint(weights=False)))
        waits = {"none": (), "text_encoder": ("text_encoder",), "alternating": ("text_encoder", "transformer")}
        return max((weights[name] for name in waits[self.offload]), default=0)

    def smaller(self) -> Sequence[tuple[str, "QwenImageSpec"]]:
        steps: list[dict[str, Any]] = [
            {"offload": "text_encoder", "gradient_checkpointing": True},
            {"offload": "alternating", "gradient_checkpointing": True},
            {"vae_slicing": True},
            {"vae_tile": 256},
            {"quantization": "torchao_float8"},
            {"quantization": "bitsandbytes_nf4"},
        ]
        smaller: list[tuple[str, QwenImageSpec]] = []
        changes: dict[str, Any] = {}
        for step in steps:
            changes |= step
            differing = {name: value for name, value in changes.items() if getattr(self, name) != value}
            typed = " ".join(f"backbone.{name}={str(value).lower()}" for name, value in differing.items())
            if differing and (not smaller or smaller[-1][0] != typed):
                smaller.append((typed, replace(self, **changes)))
        return smaller

    def skeleton(self) -> Skeleton:
        from knowcusbench.backbone.footprint import meta_models, text_encoder_config
        from knowcusbench.backbone.targets import language_modules, lora_targets

        checkpoint = self.checkpoint(weights=False)
        transformer, text_encoder, _ = meta_models(checkpoint)
        layer_count = int(text_encoder_config(checkpoint).text_config.num_hidden_layers)
        published = published_shapes()
        is_copy = checkpoint.directory != published_checkpoint().directory
        return Skeleton(
            source=str(checkpoint.directory) if is_copy else f"{self.source}, as published (no copy of it is here)",
            expected_parameters=published["parameters"] if self.source == published["source"] else {},
            transformer=transformer,
            text_encoder=text_encoder,
            lora_targets=lora_targets(transformer),
            layer_count=layer_count,
            reach=(1.0,) * layer_count,
            text_modules=partial(language_modules, text_encoder, layer_count),
        )

    def weight_files(self) -> Sequence[tuple[str, str | None]]:
        lora = [(self.step_lora.source, self.step_lora.revision)] if self.step_lora else []
        return [(self.source, self.revision), *lora]

    def checkpoint(self, *, weights: bool) -> Checkpoint:
        """The checkpoint on this machine: whole with `weights`, else its configuration files. Raises as `load`."""
        checkpoint = self._published() if not weights else None
        checkpoint = checkpoint or open_checkpoint(self.source, self.revision, weights=weights)
        for name, value in (("height", self.height), ("width", self.width)):
            if value % checkpoint.pixels_per_token:
                raise ConfigError(
                    f"backbone.{name}: expected a multiple of {checkpoint.pixels_per_token}, found {value}"
                )
        return checkpoint

    def _published(self) -> Checkpoint | None:
        """Qwen-Image's shapes where they are known and no copy of its files is: no need to ask the hub."""
        known = self.source == published_shapes()["source"] and not Path(self.source).is_dir()
        return published_checkpoint() if known and cached(self.source, self.revision) is None else None
