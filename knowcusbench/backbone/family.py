"""What is particular to one model: everything else about a diffusers pipeline is shared.

A `Family` is inert and without state. It needs no torch to be imported or asked for its constants, so that commands
that only plan stay light; its methods import what they compute with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from knowcusbench.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from knowcusbench.backbone.base import LatentDistribution, PromptEmbeds


@dataclass(frozen=True)
class Guidance:
    """How the pipeline's call is told the strength of classifier-free guidance.

    Attributes:
        keyword: the argument of the call.
        off: the value from which guidance is off, downwards.
        joint: whether the call computes the prompt and the negative prompt in one batch of twice the size.
    """

    keyword: str
    off: float = 1.0
    joint: bool = False


class Family(ABC):
    """One kind of diffusers pipeline, and how the shared backbone encodes, draws, trains and counts with it.

    Latents are (images, channels, height, width), normalised, as the transformer sees them; `velocity` of a backbone,
    its initial noise and its posteriors all have this layout. Sigma is 1 in pure noise and 0 in an image.

    Attributes:
        name: of the model, in error messages.
        pipeline_class: the name of the pipeline's class in diffusers.
        component_classes: names of the classes of "transformer", "vae" and "text_encoder" in diffusers and
            transformers; that of the text encoder has the language model's head.
        headless_class: the text encoder's class without its head, where `model_index.json` may name that one. The
            pipeline is then given the `.model` of the whole text encoder.
        decoder_layer: full name inside the text encoder of a decoder layer, `{}` standing for its index.
        lora_layers: ends of the names inside the transformer of the layers that LoRA adapts by default.
        guidance: the argument that switches classifier-free guidance on.
        encoding: what else than weights decides an embedding (template, taps, length), as JSON values. Empty for a
            model that has one way only. Keys that are arguments of the pipeline's call have their names.
        counted_tokens: length of the embeddings of the prompt that is counted with.
        most_tokens: the pipeline cuts prompts to embeddings of this length.
        fewest_steps: what the scheduler needs.
    """

    name: str
    pipeline_class: str
    component_classes: ClassVar[Mapping[str, str]]
    headless_class: str | None = None
    decoder_layer: str = "model.layers.{}"
    lora_layers: Sequence[str]
    guidance: Guidance = Guidance("guidance_scale")
    encoding: ClassVar[Mapping[str, Any]] = {}
    counted_tokens: int = 64
    most_tokens: int = 512
    fewest_steps: int = 1

    # --- From configuration files, without torch.

    def taps(self, layer_count: int) -> Sequence[int]:
        """Return, for each equal part of an embedding, how many decoder layers decide it: the index of the entry of
        `hidden_states` that it is. By default the last one, which every layer decides."""
        return (layer_count,)

    def pixels_per_latent(self, vae: Mapping[str, Any]) -> int:
        """Return the VAE's stride in pixels, from its configuration."""
        return int(2 ** (len(vae["block_out_channels"]) - 1))

    def pixels_per_token(self, vae: Mapping[str, Any]) -> int:
        """Return height and width of the square that an image token covers, of which an image must have whole ones."""
        return 2 * self.pixels_per_latent(vae)

    @abstractmethod
    def embeds_width(self, transformer: Mapping[str, Any]) -> int:
        """Return the last dimension of `PromptEmbeds.embeds`, from the transformer's configuration."""

    def latent_shape(self, vae: Mapping[str, Any], height: int, width: int) -> tuple[int, int, int]:
        """Return channels, height and width of the latents of an image of so many pixels. By default those of an
        `AutoencoderKL`, unpatched."""
        stride = self.pixels_per_latent(vae)
        return int(vae["latent_channels"]), height // stride, width // stride

    # --- The text encoder.

    def tokenizer(self, pipeline: Any) -> Any:
        """Return the tokenizer of a pipeline."""
        return pipeline.tokenizer

    @abstractmethod
    def template(self, pipeline: Any, question: str) -> str:
        """Return the text that a prompt or question becomes: the answer, or the picture, follows it."""

    def dropped_tokens(self, pipeline: Any) -> int:
        """Return how many of the first tokens of `template` are left out of the embeddings."""
        return 0

    @abstractmethod
    def encode(self, pipeline: Any, prompt: str, device: torch.device) -> PromptEmbeds:
        """Return the embeddings of one prompt, (1, length, width), never padded together with another prompt's.

        The mask says which positions are tokens, also where the transformer sees padding too.
        """

    def encode_negative(self, pipeline: Any, prompt: str, device: torch.device) -> PromptEmbeds:
        """Return the embeddings of the negative prompt, where the pipeline encodes it in another way."""
        return self.encode(pipeline, prompt, device)

    def check(self, pipeline: Any, source: str) -> None:  # noqa: B027 (most have nothing to check)
        """Raise WeightsError, naming `source`, for a pipeline that loads and yet can't be used."""

    # --- Drawing.

    @abstractmethod
    def conditions(self, prompt: PromptEmbeds, negative: PromptEmbeds | None, count: int) -> dict[str, Any]:
        """Return what the pipeline's call takes in place of prompts, for `count` images. `negative` is None where
        guidance is off."""

    def start(self, pipeline: Any, noise: Tensor, dtype: torch.dtype) -> Tensor:
        """Return initial noise, given in fp32 where the model computes, as the pipeline's call takes it as `latents`,
        for a model in `dtype`."""
        return noise.to(dtype)

    def joint_guidance(
        self, transformer: nn.Module, prompt: PromptEmbeds, negative: PromptEmbeds, scale: float
    ) -> AbstractContextManager[None]:
        """During the block, make a forward of the transformer predict with guidance, in one batch of twice the size."""
        raise ConfigError(f"backbone.joint_guidance: {self.name} has none; leave it out")

    @abstractmethod
    def decoder_input(self, pipeline: Any, latents: Tensor, height: int, width: int) -> Tensor:
        """Return what the VAE decodes, in the VAE's dtype, from latents as the pipeline's call returns them with
        `output_type="latent"`: images of `height` x `width` pixels."""

    def pixels(self, decoded: Tensor) -> Tensor:
        """Return RGB in [-1, 1], (images, 3, height, width), of what the VAE has decoded."""
        return decoded

    # --- Training.

    def noise_shift(self, scheduler: Any) -> float:
        """Return the time shift of the noise levels that the model's published trainer draws: levels are
        `shift u / (1 + (shift - 1) u)` with uniform u. 1 is uniform; a trainer that counts time from the image to the
        noise leans the other way, at 1 / shift."""
        return 1.0

    @abstractmethod
    def predict(self, pipeline: Any, latents: Tensor, sigma: Tensor, prompt: PromptEmbeds) -> Tensor:
        """Return the transformer's prediction of `noise - latents`, in the layout of `latents`.

        `latents` are (batch, channels, height, width), on the transformer's device; `sigma` is (batch,); one prompt
        serves the batch. The transformer is given latents in the embeddings' dtype.
        """

    @abstractmethod
    def posterior(self, vae: Any, pixels: Tensor) -> LatentDistribution:
        """Return the normalised latent distribution, in fp32, of one image (1, 3, height, width) in [-1, 1], in the
        VAE's dtype and on its device."""

    # --- Counting, on models without storage.

    @abstractmethod
    def forward(self, transformer: Any, batch: int, tokens: int, rows: int, columns: int) -> Tensor:
        """Run the transformer on the meta device, in its dtype: `batch` prompts of `tokens` embeddings, and images of
        `rows` x `columns` image tokens. Return its output as one tensor."""

    def empty_decoder_input(self, vae: Any, batch: int, height: int, width: int) -> Tensor:
        """Return what the VAE decodes for `batch` images of so many pixels, on the meta device and in its dtype."""
        import torch

        stride = self.pixels_per_latent(vae.config)
        shape = (batch, int(vae.config.latent_channels), height // stride, width // stride)
        return torch.empty(shape, device="meta", dtype=vae.dtype)


def reach_of(family: Family, layer_count: int) -> tuple[float, ...]:
    """Return, layer by layer, the share of an embedding that a decoder layer moves: 0 for one that reaches no
    picture."""
    taps = family.taps(layer_count)
    return tuple(sum(layer < tap for tap in taps) / len(taps) for layer in range(layer_count))
