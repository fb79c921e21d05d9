"""A resident diffusers pipeline of any family: encoding, sampling, training and being adapted."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from knowcusbench.adapters.lora import attached, check_fit
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone.base import Backbone, LatentDistribution, PromptEmbeds, QuestionForm
from knowcusbench.backbone.decoding import decoded
from knowcusbench.backbone.digest import weights_digest
from knowcusbench.backbone.family import reach_of
from knowcusbench.backbone.loading import load_pipeline, load_sibling
from knowcusbench.backbone.noise import initial_noise
from knowcusbench.backbone.options import apply_options, check_options
from knowcusbench.backbone.quantization import quantization_config
from knowcusbench.backbone.spec import DiffusersSpec
from knowcusbench.backbone.step_lora import StepLora, beside, on_device
from knowcusbench.backbone.targets import language_modules, lora_targets
from knowcusbench.errors import MethodError, PictureError, WeightsError
from knowcusbench.machine.device import fast_dtype, keep_fp32, resolve_device
from knowcusbench.machine.progress import say
from knowcusbench.storage.finite import not_finite
from knowcusbench.storage.versions import versioned

IGNORED = -100
"""The label of a position that does not count."""


def load_backbone(spec: DiffusersSpec) -> "DiffusersBackbone":
    """Load the weights that a specification names. Raises as `BackboneSpec.load`."""
    device = resolve_device(spec.device)
    spec = replace(spec, dtype=fast_dtype(device)) if spec.dtype == "auto" else spec
    check_options(spec.attention, spec.compile)
    quantization = spec.quantization and quantization_config(spec.quantization, spec.torch_dtype)
    checkpoint, drawing = spec.checkpoint(weights=True), spec.drawing_checkpoint()
    pipeline, text_encoder = load_pipeline(checkpoint, spec.torch_dtype, {"transformer": quantization})
    sibling = drawing and load_sibling(drawing, pipeline, spec.torch_dtype, quantization)
    return DiffusersBackbone(spec, pipeline, device, text_encoder=text_encoder, sibling=sibling)


class DiffusersBackbone(Backbone):
    """A resident pipeline. See `Backbone` for the contract, and `Family` for what a model adds.

    `text_encoder` is the pipeline's own with its head, where the pipeline has none; `sibling` the pipeline that draws,
    where it is another than the one that is trained.
    """

    def __init__(
        self,
        spec: DiffusersSpec,
        pipeline: Any,
        device: torch.device,
        *,
        text_encoder: nn.Module | None = None,
        sibling: Any = None,
    ) -> None:
        self.spec = spec
        self.family = spec.family
        self.device = device
        self.image_size = (spec.height, spec.width)
        self._pipeline = pipeline
        self._drawing = sibling or pipeline
        self.transformer: nn.Module = pipeline.transformer
        self.text_encoder: nn.Module = text_encoder or pipeline.text_encoder
        self._dtype = spec.torch_dtype
        keep_fp32(device, spec.dtype)
        for module in self.modules().values():
            module.requires_grad_(False).eval()
        if spec.gradient_checkpointing:
            pipeline.transformer.enable_gradient_checkpointing()
        self.layer_count = int(self._text_config.num_hidden_layers)
        self.reach = reach_of(self.family, self.layer_count)
        self.lora_targets = lora_targets(self.family, self.transformer)
        self.noise_shift = self.family.noise_shift(pipeline.scheduler)
        self.encoding = self.family.encoding
        self._negative: PromptEmbeds | None = None
        self._is_adapted = False
        self._on_device: set[nn.Module] = set()
        self._step_lora = self._load_step_lora(spec.step_lora) if spec.step_lora else None
        pipeline.vae.to(device)
        for module in self._transformers:
            self._bring(module)
        if spec.offload == "none":
            self._bring(self.text_encoder)
        for drawing in dict.fromkeys([pipeline, self._drawing]):
            drawing.set_progress_bar_config(disable=True)
            apply_options(
                drawing,
                attention=spec.attention,
                compiler=spec.compile,
                vae_slicing=spec.vae_slicing,
                vae_tile=spec.vae_tile,
            )
        for component, module in self.modules().items():
            if name := not_finite(dict(module.named_parameters()), device):
                key = "drawing_source" if component == "drawing" else "source"
                raise WeightsError(
                    f"backbone.{key}: {name} of the {component} of {getattr(spec, key)!r} has NaN or infinity; copy "
                    "the checkpoint again"
                )
        self._base_digest = weights_digest(self.modules(), device)
        self.digest = self._base_digest
        if self._step_lora:
            lora = weights_digest({"step_lora": nn.ParameterDict(_underscored(self._step_lora))})
            self.digest = hashlib.sha256(f"{self.digest} {lora}".encode()).hexdigest()
        self.sampling = {
            name: getattr(spec, name)
            for name in ("steps", "true_cfg_scale", "negative_prompt", "seeds_per_batch", "vae_slicing")
        }
        if spec.joint_guidance:
            self.sampling["joint_guidance"] = True
        self.settings = {
            name: value for name in ("attention", "compile", "vae_tile") if (value := getattr(spec, name)) is not None
        }
        if versioned(spec):
            self.settings["version"] = spec.version

    @property
    def _text_config(self) -> Any:
        return self.text_encoder.config.get_text_config()  # type: ignore[operator,union-attr]

    @property
    def _transformers(self) -> list[nn.Module]:
        """The transformer that is trained and, where that is another, the one that draws."""
        return list(dict.fromkeys([self.transformer, self._drawing.transformer]))

    def _load_step_lora(self, spec: StepLora) -> Adapter:
        adapter = on_device(spec.load(self.family.pipeline_class), self.device, self._dtype)
        check_fit(self.transformer, adapter)
        self._drawing.scheduler = spec.scheduler(self._drawing.scheduler)
        return adapter

    def _bring(self, module: nn.Module) -> None:
        """Have a transformer or the text encoder on the device, and the others where `offload` wants them. What is
        there already is not asked for: walking through its thousands of modules takes as long as a step's launches."""
        for other in [self.text_encoder, *self._transformers]:
            waits = self.spec.offload == "alternating" or (
                self.spec.offload == "text_encoder" and other is self.text_encoder
            )
            if other is not module and waits and other in self._on_device:
                self._on_device.remove(other)
                other.to("cpu")
        if module not in self._on_device:
            module.to(self.device)
            self._on_device.add(module)

    def modules(self) -> dict[str, nn.Module]:
        own = {"transformer": self.transformer, "text_encoder": self.text_encoder, "vae": self._pipeline.vae}
        drawing = self._drawing.transformer
        return own if drawing is self.transformer else {**own, "drawing": drawing}

    def encode(self, prompt: str) -> PromptEmbeds:
        return self._encode(prompt, self.family.encode)

    @torch.no_grad()
    def _encode(self, prompt: str, encode: Callable[[Any, str, torch.device], PromptEmbeds]) -> PromptEmbeds:
        self._bring(self.text_encoder)
        encoded = encode(self._pipeline, prompt, self.device)
        most, mask = self.family.most_tokens, encoded.mask
        if encoded.embeds.shape[1] == most and (mask is None or mask.all()):
            whole = self._token_ids(self.family.template(self._pipeline, prompt))
            count = len(whole) - self.family.dropped_tokens(self._pipeline)
            if count > most:
                say(
                    f"knowcusbench: prompt truncated to {most:,} of its {count:,} tokens, what follows has no effect "
                    f"on the image: {prompt[:60]!r}..."
                )
        return encoded

    def sample(self, prompt_embeds: PromptEmbeds, noise_seeds: Sequence[int]) -> list[Image.Image]:
        size = self.spec.seeds_per_batch
        if self.device.type == "cpu" and self._dtype == torch.float32:
            # Kernels in fp32 sum in an order that depends on how many images there are, and among more than two on an
            # image's position. In pairs an image is the same in every batch.
            size = min(size, 2)
        batches = [noise_seeds[start : start + size] for start in range(0, len(noise_seeds), size)]
        if self.spec.is_guided and self._negative is None:
            self._negative = self._encode(self.spec.negative_prompt, self.family.encode_negative)
        self._bring(self._drawing.transformer)
        with nullcontext() if self._is_adapted else self._transformer_with(None):
            return [image for batch in batches for image in self._sample_batch(prompt_embeds, batch)]

    def _sample_batch(self, prompt_embeds: PromptEmbeds, noise_seeds: Sequence[int]) -> list[Image.Image]:
        # On the CPU a batch of one goes through matrix-vector kernels, whose last bits differ from those of larger
        # ones. A pair agrees with them in fp32, and for most prompts in bf16: a run draws whole cells in any case.
        drawn = [*noise_seeds, *noise_seeds] if len(noise_seeds) == 1 and self.device.type == "cpu" else noise_seeds
        latents = self._denoised(prompt_embeds, drawn)
        if self.spec.vae_slicing:
            latents = latents[: len(noise_seeds)]
        pictures = decoded(self.family, self._drawing, latents, self.spec.height, self.spec.width)[: len(noise_seeds)]
        if broken := [seed for seed, picture in zip(noise_seeds, pictures, strict=True) if picture is None]:
            raise PictureError(
                f"pixels are not finite (noise seed {', '.join(map(str, broken))}); the adaptation diverged, or the "
                "weights or the chosen kernels are broken"
            )
        return [picture for picture in pictures if picture]

    def _denoised(self, prompt_embeds: PromptEmbeds, noise_seeds: Sequence[int]) -> Tensor:
        """Return latents at the end of sampling, as the pipeline has them."""
        count, scale, negative = len(noise_seeds), self.spec.true_cfg_scale, self._negative
        guiding: AbstractContextManager[None] = nullcontext()
        if negative is None:
            scale = self.family.guidance.off
        elif self.spec.joint_guidance:
            guiding = self.family.joint_guidance(self._drawing.transformer, prompt_embeds, negative, scale)
            scale, negative = self.family.guidance.off, None
        with guiding:
            latents: Tensor = self._drawing(
                **self.family.conditions(prompt_embeds, negative, count),
                **{self.family.guidance.keyword: scale},
                height=self.spec.height,
                width=self.spec.width,
                num_inference_steps=self.spec.steps,
                latents=self._noise(noise_seeds),
                output_type="latent",
            ).images
        return latents

    def _noise(self, noise_seeds: Sequence[int]) -> Tensor:
        """Return initial noise as the pipeline takes it."""
        channels, height, width = self.family.latent_shape(self._pipeline.vae.config, *self.image_size)
        noise = initial_noise(noise_seeds, channels, height, width).to(self.device)
        return self.family.start(self._drawing, noise[:, 0], self._dtype)

    @contextmanager
    def adapted(self, adaptation: Adaptation) -> Iterator[None]:
        if self._is_adapted:
            raise RuntimeError("the backbone is adapted already; leave that block first")
        self._is_adapted = True
        self._negative = None
        try:
            with ExitStack() as stack:
                if adaptation.text_encoder:
                    # fp32: one forward a prompt costs nothing, and factors with near-parallel rows are far off
                    # in bf16.
                    stack.enter_context(attached(self.text_encoder, adaptation.text_encoder, torch.float32))
                stack.enter_context(self._transformer_with(adaptation.transformer))
                yield
        finally:
            self._is_adapted = False
            self._negative = None
            self.check_intact()

    @contextmanager
    def _transformer_with(self, adapter: Adapter | None) -> Iterator[None]:
        """Put an adapter on the transformer, and on the one that draws; the step-distilled LoRA is on it as well."""
        if self._step_lora:
            adapter = beside(self._step_lora, adapter)
        with ExitStack() as stack:
            if adapter:
                for transformer in self._transformers:
                    stack.enter_context(attached(transformer, adapter, self._dtype))
            yield

    def check_intact(self) -> None:
        if weights_digest(self.modules(), self.device) != self._base_digest:
            raise RuntimeError("the base weights of the backbone have changed")

    def text_modules(self, names: Sequence[str], layers: Sequence[int]) -> tuple[str, ...]:
        return language_modules(self.family, self.text_encoder, self.layer_count, names, layers)

    def question_tokens(self, question: str, answer: str, form: QuestionForm) -> tuple[Tensor, Tensor]:
        if form == "chat":
            before, after = self.family.template(self._pipeline, question), answer
        else:
            # In running text a word is a token together with the blank before it; a reply has none.
            before, after = question, f" {answer}"
        question_ids, answer_ids = self._token_ids(before), self._token_ids(after, add_special_tokens=False)
        if not answer.strip() or not answer_ids:
            raise MethodError(f"question {question!r}: the answer {answer!r} has no token")
        if not question_ids:
            raise MethodError(f"question {question!r} with the answer {answer!r} has no token")
        limit = int(self._text_config.max_position_embeddings)
        if len(question_ids) + len(answer_ids) > limit:
            raise MethodError(
                f"question {question!r}: {len(question_ids) + len(answer_ids)} tokens with its answer, "
                f"the text encoder takes {limit}"
            )
        input_ids = torch.tensor([question_ids + answer_ids[:-1]], device=self.device)
        labels = torch.full_like(input_ids, IGNORED)
        labels[0, len(question_ids) - 1 :] = torch.tensor(answer_ids, device=self.device)
        return input_ids, labels

    def _token_ids(self, text: str, **options: bool) -> list[int]:
        ids: list[int] = self.family.tokenizer(self._pipeline)(text, **options)["input_ids"]
        return ids

    def language_logits(self, input_ids: Tensor) -> Tensor:
        self._bring(self.text_encoder)
        logits: Tensor = self.text_encoder(input_ids=input_ids).logits
        return logits

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> LatentDistribution:
        vae = self._pipeline.vae
        # One at a time, for memory.
        found = [self.family.posterior(vae, self._pixels(image)[None].to(self.device, self._dtype)) for image in images]
        return LatentDistribution(torch.cat([each.mean for each in found]), torch.cat([each.std for each in found]))

    def _pixels(self, image: Image.Image) -> Tensor:
        size = (self.spec.width, self.spec.height)
        fitted = ImageOps.fit(image, size, method=Image.Resampling.BILINEAR)
        pixels: Tensor = pil_to_tensor(fitted)
        return pixels.float() / 127.5 - 1

    def velocity(self, noisy_latents: Tensor, sigma: Tensor, prompt_embeds: PromptEmbeds) -> Tensor:
        self._bring(self.transformer)
        predicted = self.family.predict(self._pipeline, noisy_latents, sigma.to(self.device), prompt_embeds)
        return predicted.float()


def _underscored(adapter: Adapter) -> dict[str, Tensor]:
    """Return an adapter's tensors under names that a `ParameterDict` takes."""
    return {name.replace(".", "_"): tensor for name, tensor in adapter.weights.items()}
