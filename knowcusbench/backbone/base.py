"""The contract of a backbone: a text-to-image model with an LLM text encoder that can be customised.

Methods, editors and trainers see only this. Whatever is particular to one model (prompt template, module
names, latent packing, conditioning layer) stays in that model's file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn

    from knowcusbench.adapters.types import Adaptation


class QuestionForm(StrEnum):
    """Form in which a question is put to the text encoder.

    `chat` is inside the pipeline's own prompt template, with the answer as the assistant's reply; `plain` is bare text
    followed by the answer.
    """

    chat = "chat"
    plain = "plain"


@dataclass(frozen=True)
class PromptEmbeds:
    """What the transformer is conditioned on: embeddings (1, length, dim), and a mask (1, length) of the positions that
    are tokens, or None where all are. Whether the transformer sees the others is the model's business."""

    embeds: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class LatentDistribution:
    """The VAE posterior of images in the transformer's normalised latent space.

    `mean` and `std` have shape (images, channels, height, width). One draw is
    `mean + std * standard_normal`, so that cached latents do not freeze one posterior sample.
    """

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Footprint:
    """What a backbone needs, known from its configuration files without loading a weight.

    Attributes:
        parameters: parameter count by component ("transformer", "text_encoder", "vae").
        weight_bytes: bytes of the weights by component, as they are loaded.
        image_flops: floating-point operations of one image: every step with guidance, and decoding.
        training_step_flops: the same of one LoRA training step at batch 1 (forward and backward).
        prompt_tokens: length of the embeddings of the prompt that is counted with.
        prompt_embeds_bytes: bytes of these embeddings.
        image_size: height and width of an image, in pixels.
    """

    parameters: Mapping[str, int]
    weight_bytes: Mapping[str, int]
    image_flops: float
    training_step_flops: float
    prompt_tokens: int
    prompt_embeds_bytes: int
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Memory:
    """Bytes that a device must have free, by what the backbone is at: weights and everything computed on the way.

    Attributes:
        encoding: prompts, and knowledge edits.
        drawing: a batch of images.
        training: a LoRA step at batch 1.
    """

    encoding: int
    drawing: int
    training: int


@dataclass(frozen=True)
class Skeleton:
    """A backbone's modules without storage, for names and counts.

    Attributes:
        source: whose configuration files it was made from.
        expected_parameters: the published parameter counts by component, where they are known.
        transformer, text_encoder, lora_targets, layer_count, reach: as in `Backbone`.
        text_modules: as `Backbone.text_modules`.
    """

    source: str
    expected_parameters: Mapping[str, int]
    transformer: nn.Module
    text_encoder: nn.Module
    lora_targets: tuple[str, ...]
    layer_count: int
    reach: tuple[float, ...]
    text_modules: Callable[[Sequence[str], Sequence[int]], tuple[str, ...]]


class Backbone(ABC):
    """A resident text-to-image model.

    Attributes:
        digest: hex digest of all weights that it draws with unadapted; equal before and after any use of `adapted`.
        settings: what else decides the last bits of what it computes, in training as in drawing, as JSON values; empty
            where everything is computed plainly.
        sampling: what decides its images besides, as JSON values.
        device: where the model computes.
        image_size: height and width of its images, in pixels.
        transformer: the diffusion transformer, base weights frozen.
        text_encoder: the LLM text encoder, base weights frozen.
        lora_targets: full names inside `transformer` of the linear layers that LoRA adapts by default.
        layer_count: number of decoder layers of the language model.
        reach: for each decoder layer, the share of an embedding that it moves: 0 for a layer behind all that the
            transformer is conditioned on, whose edit changes answers and no picture.
        noise_shift: the time shift of the noise levels that it is trained at (`flow_matching.draw_sigmas`); 1 is
            uniform.
        encoding: what else than the weights decides an embedding (template, taps, length), as JSON values; empty for a
            model that has one way only.
    """

    digest: str
    settings: Mapping[str, Any]
    sampling: Mapping[str, Any]
    device: torch.device
    image_size: tuple[int, int]
    transformer: nn.Module
    text_encoder: nn.Module
    lora_targets: tuple[str, ...]
    layer_count: int
    reach: tuple[float, ...]
    noise_shift: float = 1.0
    encoding: Mapping[str, Any] = {}

    @abstractmethod
    def encode(self, prompt: str) -> PromptEmbeds:
        """Encode one prompt with the text encoder as it is adapted now. Results do not depend on what else
        was encoded: prompts are never padded together."""

    @abstractmethod
    def sample(self, prompt_embeds: PromptEmbeds, noise_seeds: Sequence[int]) -> list[Image.Image]:
        """Draw one RGB image per noise seed from one prompt, in batches of the configured size."""

    @abstractmethod
    def adapted(self, adaptation: Adaptation) -> AbstractContextManager[None]:
        """Apply an adaptation for the duration of a `with` block.

        Raises WeightsError if an adapter does not fit this model (nothing is applied then). On leaving,
        also by an exception, every adapter is removed and the base weights are checked to be
        bit-identical (RuntimeError if they are not).
        """

    @abstractmethod
    def check_intact(self) -> None:
        """Raise RuntimeError unless the base weights still have the digest they were loaded with."""

    @abstractmethod
    def text_modules(self, names: Sequence[str], layers: Sequence[int]) -> tuple[str, ...]:
        """Full names inside `text_encoder` of the language model's linear layers with these short names
        ("gate_proj", "q_proj", ...) in these decoder layers (0-based), layer by layer.

        Raises ConfigError for a name or layer that the model does not have.
        """

    @abstractmethod
    def question_tokens(self, question: str, answer: str, form: QuestionForm) -> tuple[Tensor, Tensor]:
        """Token ids of a question followed by its answer without the last answer token, and the labels.

        Returns `(input_ids, labels)`, both (1, length). `labels[0, t]` is the token that follows position
        t where that is an answer token, else -100; they are already shifted, so the loss at t compares
        `language_logits(input_ids)[0, t]` with `labels[0, t]`. Raises MethodError, naming the question, if it
        or the answer has no token or the text is longer than the model's context.
        """

    @abstractmethod
    def language_logits(self, input_ids: Tensor) -> Tensor:
        """Next-token logits (1, length, vocabulary) of the text encoder, differentiable."""

    @abstractmethod
    def encode_images(self, images: Sequence[Image.Image]) -> LatentDistribution:
        """The latent distribution of RGB images after resizing (bilinear) and centre-cropping them to the
        backbone's image size."""

    @abstractmethod
    def velocity(self, noisy_latents: Tensor, sigma: Tensor, prompt_embeds: PromptEmbeds) -> Tensor:
        """The transformer's rectified-flow velocity for training.

        `noisy_latents` (batch, channels, height, width) are `(1 - sigma) * latents + sigma * noise`,
        `sigma` (batch,) lies in (0, 1]. One prompt serves the batch. Returns the latents' shape, in
        fp32; the target is `noise - latents`. Differentiable with respect to adapter weights and
        prompt embeddings.
        """


class BackboneSpec(ABC):
    """A backbone's configuration: inert data that can say what the model needs, and load it.

    A specification is a frozen keyword-only dataclass named by `_target_` in `configs/backbone/<name>.yaml`. A field
    that changes no image and no adaptation has the metadata `SPEED`.

    Attributes:
        version: raised by the author when the same settings and weights give other images or adaptations.
    """

    version: ClassVar[int] = 1

    @abstractmethod
    def load(self) -> Backbone:
        """Load the weights. Raises WeightsError for a directory or hub id that can't be loaded."""

    @abstractmethod
    def footprint(self, kept: Path | None = None) -> Footprint:
        """Sizes and operation counts, from the checkpoint's configuration files alone. What had to be counted is kept
        in the directory `kept`, if there is one, and read there the next time."""

    @abstractmethod
    def memory(self, lora_rank: int) -> Memory:
        """What the device must have free, from the configuration files alone; `lora_rank` is that of training."""

    def waiting(self) -> int:
        """Bytes of main memory that modules wait in while they are not on the device."""
        return 0

    @abstractmethod
    def smaller(self) -> Sequence[tuple[str, BackboneSpec]]:
        """The same backbone in less and less memory: what to type for it, and the specification. The first ones draw
        the same images."""

    @abstractmethod
    def skeleton(self) -> Skeleton:
        """The modules without storage, from the configuration files alone."""

    def reach(self) -> Sequence[float]:
        """Return `Backbone.reach` from the configuration files alone; empty where it is not known."""
        return ()

    @abstractmethod
    def weight_files(self) -> Sequence[tuple[str, str | None]]:
        """The directories or hub ids that `load` needs, each with its revision."""


def unseen_layers(reach: Sequence[float], layers: Iterable[int]) -> str:
    """Say which of these decoder layers reach no picture; empty if all do.

    >>> unseen_layers([1, 1, 0.5, 0, 0, 0], [2, 3, 5, 4])
    'layers 3 to 5 change answers, no picture'
    """
    unseen = sorted({layer for layer in layers if 0 <= layer < len(reach) and not reach[layer]})
    if not unseen:
        return ""
    starts = [layer for layer in unseen if layer - 1 not in unseen]
    ends = [layer for layer in unseen if layer + 1 not in unseen]
    runs = [f"{start}" if start == end else f"{start} to {end}" for start, end in zip(starts, ends, strict=True)]
    plural = len(unseen) > 1
    return f"layer{'s' * plural} {', '.join(runs)} change{'s' * (not plural)} answers, no picture"


@lru_cache(maxsize=1)
def resident(spec: BackboneSpec) -> Backbone:
    """The backbone of this process: loaded once, whatever the number of concepts, methods and stages."""
    return spec.load()
