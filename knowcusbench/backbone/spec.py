"""The specification that all diffusers pipelines share. A family adds what it has besides, and its defaults."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from knowcusbench.backbone.base import BackboneSpec, Footprint, Memory, Skeleton
from knowcusbench.backbone.checkpoint import Checkpoint, open_checkpoint
from knowcusbench.backbone.counts import TRAINING_FORWARDS, Counts, counts_of, weight_bytes
from knowcusbench.backbone.family import Family, reach_of
from knowcusbench.backbone.published import DIRECTORY, published_checkpoint, published_shapes
from knowcusbench.backbone.quantization import BYTES_PER_PARAMETER, Quantization
from knowcusbench.backbone.step_lora import StepLora
from knowcusbench.errors import ConfigError
from knowcusbench.storage.hub_cache import cached
from knowcusbench.storage.versions import SPEED

if TYPE_CHECKING:
    import torch

    from knowcusbench.backbone.resident import DiffusersBackbone

Offload = Literal["none", "text_encoder", "alternating"]

BYTES = {"auto": 2, "bfloat16": 2, "float32": 4}
"""Bytes of a number, by dtype."""

TRANSFORMERS = ("transformer", "drawing")
"""The transformer, and that of `drawing_source`."""


@dataclass(frozen=True, kw_only=True)
class DiffusersSpec(BackboneSpec):
    """How a diffusers pipeline is loaded and sampled.

    Attributes:
        source: a diffusers directory or a hub id.
        revision: commit, tag or branch of a hub id.
        dtype: dtype of all weights. "auto" is what the device is fast in; a run settles it before it builds a backbone,
            and `footprint` and `memory` count it as bfloat16.
        device: "auto" takes a GPU if there is one.
        height, width: size of the images, in pixels.
        steps: denoising steps; the scheduler is used as shipped.
        true_cfg_scale: strength of classifier-free guidance, as the pipeline's own argument means it; at its least, for
            most families 1, guidance is off, which halves the cost.
        negative_prompt: what guidance leads away from.
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
        quantization: quantisation of the transformer's weights. The text encoder, which is edited, stays as it is.
        step_lora: draw with a step-distilled LoRA; `steps` and `true_cfg_scale` are those it was distilled for.
        drawing_source: draw with the transformer of this checkpoint, a distilled sibling of `source` that takes its
            LoRAs: they are trained on `source`, and `steps` and `true_cfg_scale` are those of the sibling.
        drawing_revision: commit, tag or branch of its hub id.
    """

    family: ClassVar[Family]

    source: str
    revision: str | None = None
    dtype: Literal["auto", "bfloat16", "float32"] = "bfloat16"
    device: str = field(default="auto", metadata=SPEED)
    height: int = 1024
    width: int = 1024
    steps: int = 50
    true_cfg_scale: float = 4.0
    negative_prompt: str = ""
    seeds_per_batch: int = 5
    gradient_checkpointing: bool = field(default=True, metadata=SPEED)
    attention: str | None = None
    compile: str | None = None
    vae_slicing: bool = True
    vae_tile: int | None = None
    offload: Offload = field(default="none", metadata=SPEED)
    quantization: Quantization | None = None
    step_lora: StepLora | None = None
    drawing_source: str | None = None
    drawing_revision: str | None = None

    def __post_init__(self) -> None:
        fewest, off = self.family.fewest_steps, self.family.guidance.off
        if self.steps < fewest:
            raise ConfigError(f"backbone.steps: expected at least {fewest}, found {self.steps}")
        if self.seeds_per_batch < 1:
            raise ConfigError(f"backbone.seeds_per_batch: expected at least 1, found {self.seeds_per_batch}")
        if min(self.height, self.width) < 1:
            raise ConfigError(f"backbone.height, width: expected pixels, found {self.height} x {self.width}")
        if not off <= self.true_cfg_scale < math.inf:
            raise ConfigError(
                f"backbone.true_cfg_scale: expected a number of at least {off:g}, found {self.true_cfg_scale}"
            )
        if self.drawing_source and self.step_lora:
            raise ConfigError("backbone: drawing_source and step_lora both say what draws; leave one out")
        if self.vae_tile is not None and (self.vae_tile < 32 or self.vae_tile % 32):
            # A quarter of a tile, its overlap, must be whole latents.
            raise ConfigError(f"backbone.vae_tile: expected a multiple of 32 pixels, found {self.vae_tile}")

    def load(self) -> "DiffusersBackbone":
        # Here and below, since a command that only plans does without torch.
        from knowcusbench.backbone.resident import load_backbone

        return load_backbone(self)

    @property
    def is_guided(self) -> bool:
        """Whether images are drawn with guidance."""
        return self.true_cfg_scale > self.family.guidance.off

    @property
    def joint_guidance(self) -> bool:
        """Whether the prompt and the negative prompt are computed in one batch by other means than the pipeline's; a
        family that can has a field of this name."""
        return False

    @property
    def torch_dtype(self) -> "torch.dtype":
        """Dtype of the weights, as they are counted."""
        import torch

        return torch.float32 if self.dtype == "float32" else torch.bfloat16

    def footprint(self, kept: Path | None = None) -> Footprint:
        checkpoint = self.checkpoint(weights=False)
        counts = self._counts(checkpoint, kept)
        forwards = self.steps * (2 if self.is_guided else 1)
        tokens = self.family.counted_tokens
        return Footprint(
            parameters=counts.parameters,
            weight_bytes=self._weight_bytes(counts),
            image_flops=forwards * counts.forward_flops + counts.decode_flops,
            training_step_flops=TRAINING_FORWARDS * counts.forward_flops,
            prompt_tokens=tokens,
            prompt_embeds_bytes=tokens * self.family.embeds_width(checkpoint.transformer) * BYTES[self.dtype],
            image_size=(self.height, self.width),
        )

    def _counts(self, checkpoint: Checkpoint, kept: Path | None = None) -> Counts:
        return counts_of(checkpoint, height=self.height, width=self.width, kept=kept)

    def _weight_bytes(self, counts: Counts) -> dict[str, int]:
        return weight_bytes(counts.parameters, BYTES[self.dtype], BYTES_PER_PARAMETER.get(self.quantization))

    def memory(self, lora_rank: int) -> Memory:
        from knowcusbench.backbone.counting import drawing_bytes, training_bytes

        checkpoint = self.checkpoint(weights=False)
        size: dict[str, Any] = {"dtype": self.torch_dtype, "height": self.height, "width": self.width}
        is_joint = self.is_guided and (self.joint_guidance or self.family.guidance.joint)
        drawing = drawing_bytes(
            checkpoint,
            **size,
            batch=self.seeds_per_batch * (2 if is_joint else 1),
            images=self.seeds_per_batch,
            decoded=1 if self.vae_slicing else self.seeds_per_batch,
            vae_tile=self.vae_tile,
        )
        training = training_bytes(checkpoint, **size, rank=lora_rank, checkpointing=self.gradient_checkpointing)
        weights = self._large_weights()
        vae = self._weight_bytes(self._counts(checkpoint))["vae"]
        there = {
            work: vae + sum(count for name, count in weights.items() if name == work or name not in self._waiting)
            for work in weights
        }
        return Memory(
            encoding=there["text_encoder"],
            drawing=there.get("drawing", there["transformer"]) + drawing,
            training=there["transformer"] + training,
        )

    @property
    def _waiting(self) -> Sequence[str]:
        """The models that wait in main memory while they are not at work."""
        waiting = {"none": (), "text_encoder": ("text_encoder",), "alternating": ("text_encoder", *TRANSFORMERS)}
        return waiting[self.offload]

    def _large_weights(self) -> dict[str, int]:
        """Return the bytes of the models that can wait in main memory."""
        weights = self._weight_bytes(self._counts(self.checkpoint(weights=False)))
        large = {name: weights[name] for name in ("text_encoder", "transformer")}
        return large | ({"drawing": large["transformer"]} if self.drawing_source else {})

    def waiting(self) -> int:
        waiting = {name: count for name, count in self._large_weights().items() if name in self._waiting}
        # Of those that take turns one is at work.
        return sum(waiting.values()) - (min(waiting.values()) if self.offload == "alternating" else 0)

    def smaller(self) -> Sequence[tuple[str, Self]]:
        steps: list[dict[str, Any]] = [
            {"offload": "text_encoder", "gradient_checkpointing": True},
            {"offload": "alternating", "gradient_checkpointing": True},
            {"vae_slicing": True},
            {"vae_tile": 256},
            {"quantization": "torchao_float8"},
            {"quantization": "bitsandbytes_nf4"},
        ]
        smaller: list[tuple[str, Self]] = []
        changes: dict[str, Any] = {}
        for step in steps:
            changes |= step
            differing = {name: value for name, value in changes.items() if getattr(self, name) != value}
            typed = " ".join(f"backbone.{name}={str(value).lower()}" for name, value in differing.items())
            if differing and (not smaller or smaller[-1][0] != typed):
                smaller.append((typed, replace(self, **changes)))
        return smaller

    def skeleton(self) -> Skeleton:
        from knowcusbench.backbone.counting import meta_models, text_encoder_config
        from knowcusbench.backbone.targets import language_modules, lora_targets

        checkpoint = self.checkpoint(weights=False)
        transformer, text_encoder, _ = meta_models(checkpoint)
        layer_count = int(text_encoder_config(checkpoint).get_text_config().num_hidden_layers)
        published = published_shapes().get(self.source)
        is_copy = checkpoint.directory != DIRECTORY
        return Skeleton(
            source=str(checkpoint.directory) if is_copy else f"{self.source}, as published (no copy of it is here)",
            expected_parameters=published["parameters"] if published else {},
            transformer=transformer,
            text_encoder=text_encoder,
            lora_targets=lora_targets(self.family, transformer),
            layer_count=layer_count,
            reach=reach_of(self.family, layer_count),
            text_modules=partial(language_modules, self.family, text_encoder, layer_count),
        )

    def reach(self) -> Sequence[float]:
        config = self.checkpoint(weights=False).text_encoder
        return reach_of(self.family, int(config.get("text_config", config)["num_hidden_layers"]))

    def weight_files(self) -> Sequence[tuple[str, str | None]]:
        lora = [(self.step_lora.source, self.step_lora.revision)] if self.step_lora else []
        sibling = [(self.drawing_source, self.drawing_revision)] if self.drawing_source else []
        return [(self.source, self.revision), *lora, *sibling]

    def checkpoint(self, *, weights: bool) -> Checkpoint:
        """Return the checkpoint on this machine: whole with `weights`, else its configuration files.

        Raises as `load`.
        """
        checkpoint = self._published() if not weights else None
        checkpoint = checkpoint or open_checkpoint(self.family, self.source, self.revision, weights=weights)
        for name, value in (("height", self.height), ("width", self.width)):
            if value % checkpoint.pixels_per_token:
                raise ConfigError(
                    f"backbone.{name}: expected a multiple of {checkpoint.pixels_per_token}, found {value}"
                )
        return checkpoint

    def drawing_checkpoint(self) -> Checkpoint | None:
        """Return the whole checkpoint of `drawing_source`; None where there is none. Raises as `load`."""
        if self.drawing_source is None:
            return None
        key, revision = "backbone.drawing_source", self.drawing_revision
        return open_checkpoint(self.family, self.drawing_source, revision, weights=True, key=key)

    def _published(self) -> Checkpoint | None:
        """Return the published shapes where they are known and no copy of the files is here: no need to ask the hub."""
        known = self.source in published_shapes() and not Path(self.source).is_dir()
        is_absent = known and cached(self.source, self.revision) is None
        return published_checkpoint(self.family, self.source) if is_absent else None
