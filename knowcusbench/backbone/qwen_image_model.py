"""A resident Qwen-Image: encoding, sampling, training and being adapted."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace

import torch
from diffusers import QwenImagePipeline
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from knowcusbench.adapters.lora import attached, check_fit
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone.base import Backbone, LatentDistribution, PromptEmbeds, QuestionForm
from knowcusbench.backbone.decoding import decoded
from knowcusbench.backbone.digest import weights_digest
from knowcusbench.backbone.guidance import joint_guidance
from knowcusbench.backbone.loading import load_pipeline
from knowcusbench.backbone.noise import initial_noise
from knowcusbench.backbone.quantization import quantization_config
from knowcusbench.backbone.qwen_image import QwenImageSpec
from knowcusbench.backbone.speed import apply_options, check_options
from knowcusbench.backbone.step_lora import StepLora, beside, on_device
from knowcusbench.backbone.targets import language_modules, lora_targets
from knowcusbench.errors import MethodError, PictureError, WeightsError
from knowcusbench.machine.device import fast_dtype, keep_fp32, resolve_device
from knowcusbench.machine.progress import say
from knowcusbench.storage.finite import not_finite
from knowcusbench.storage.versions import versioned

PROMPT_TOKENS = 1024
"""So many tokens of a prompt are conditions; the pipeline cuts the others off."""

IGNORED = -100
"""The label of a position that does not count."""


def load_qwen_image(spec: QwenImageSpec) -> "QwenImage":
    """Load the weights that a specification names. Raises as `BackboneSpec.load`."""
    device = resolve_device(spec.device)
    spec = replace(spec, dtype=fast_dtype(device)) if spec.dtype == "auto" else spec
    check_options(spec.attention, spec.compile)
    quantization = spec.quantization and quantization_config(spec.quantization, spec.torch_dtype)
    checkpoint = spec.checkpoint(weights=True)
    pipeline = load_pipeline(checkpoint, spec.torch_dtype, {"transformer": quantization})
    return QwenImage(spec, pipeline, device)


class QwenImage(Backbone):
    """A resident Qwen-Image. See `Backbone` for the contract."""

    def __init__(self, spec: QwenImageSpec, pipeline: QwenImagePipeline, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.image_size = (spec.height, spec.width)
        self._pipeline = pipeline
        self.transformer: nn.Module = pipeline.transformer
        self.text_encoder: nn.Module = pipeline.text_encoder
        self._dtype = spec.torch_dtype
        keep_fp32(device, spec.dtype)
        for module in self.modules().values():
            module.requires_grad_(False).eval()
        if spec.gradient_checkpointing:
            pipeline.transformer.enable_gradient_checkpointing()
        pipeline.set_progress_bar_config(disable=True)
        self.layer_count = int(pipeline.text_encoder.config.text_config.num_hidden_layers)
        self.reach = (1.0,) * self.layer_count
        self.lora_targets = lora_targets(self.transformer)
        self._negative: PromptEmbeds | None = None
        self._is_adapted = False
        self._on_device: set[nn.Module] = set()
        self._step_lora = self._load_step_lora(spec.step_lora) if spec.step_lora else None
        pipeline.vae.to(device)
        self._bring(self.transformer)
        if spec.offload == "none":
            self._bring(self.text_encoder)
        apply_options(
            pipeline,
            attention=spec.attention,
            compiler=spec.compile,
            vae_slicing=spec.vae_slicing,
            vae_tile=spec.vae_tile,
        )
        for component, module in self.modules().items():
            if name := not_finite(dict(module.named_parameters()), device):
                raise WeightsError(
                    f"backbone.source: {name} of the {component} of {spec.source!r} has NaN or infinity; copy the "
                    "checkpoint again"
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

    def _load_step_lora(self, spec: StepLora) -> Adapter:
        adapter = on_device(spec.load(), self.device, self._dtype)
        check_fit(self.transformer, adapter)
        self._pipeline.scheduler = spec.scheduler(self._pipeline.scheduler)
        return adapter

    def _bring(self, module: nn.Module) -> None:
        """Have the transformer or the text encoder on the device, and the other one where `offload` wants it. What is
        there already is not asked for: walking through its thousands of modules takes as long as a step's launches."""
        other = self.text_encoder if module is self.transformer else self.transformer
        waits = self.spec.offload == "alternating" or (
            self.spec.offload == "text_encoder" and other is self.text_encoder
        )
        if waits and other in self._on_device:
            self._on_device.remove(other)
            other.to("cpu")
        if module not in self._on_device:
            module.to(self.device)
            self._on_device.add(module)

    def modules(self) -> dict[str, nn.Module]:
        return {
            "transformer": self._pipeline.transformer,
            "text_encoder": self._pipeline.text_encoder,
            "vae": self._pipeline.vae,
        }

    @torch.no_grad()
    def encode(self, prompt: str) -> PromptEmbeds:
        self._bring(self.text_encoder)
        embeds, mask = self._pipeline.encode_prompt(prompt, max_sequence_length=PROMPT_TOKENS, device=self.device)
        if embeds.shape[1] == PROMPT_TOKENS and (count := self._token_count(prompt)) > PROMPT_TOKENS:
            say(
                f"knowcusbench: prompt truncated to {PROMPT_TOKENS:,} of its {count:,} tokens, what follows has no "
                f"effect on the image: {prompt[:60]!r}..."
            )
        return PromptEmbeds(embeds, mask)

    def _token_count(self, prompt: str) -> int:
        """The tokens of a prompt that conditions come from: those of the template before it are left out."""
        whole = self._pipeline.prompt_template_encode.format(prompt)
        start: int = self._pipeline.prompt_template_encode_start_idx
        return len(self._pipeline.tokenizer(whole).input_ids) - start

    def sample(self, prompt_embeds: PromptEmbeds, noise_seeds: Sequence[int]) -> list[Image.Image]:
        size = self.spec.seeds_per_batch
        if self.device.type == "cpu" and self._dtype == torch.float32:
            # Kernels in fp32 sum in an order that depends on how many images there are, and among more than two on an
            # image's position. In pairs an image is the same in every batch.
            size = min(size, 2)
        batches = [noise_seeds[start : start + size] for start in range(0, len(noise_seeds), size)]
        if self.spec.true_cfg_scale > 1 and self._negative is None:
            self._negative = self.encode(self.spec.negative_prompt)
        self._bring(self.transformer)
        with nullcontext() if self._is_adapted else self._transformer_with(None):
            return [image for batch in batches for image in self._sample_batch(prompt_embeds, batch)]

    def _sample_batch(self, prompt_embeds: PromptEmbeds, noise_seeds: Sequence[int]) -> list[Image.Image]:
        # On the CPU a batch of one goes through matrix-vector kernels, whose last bits differ from those of larger
        # ones. A pair agrees with them in fp32, and for most prompts in bf16: a run draws whole cells in any case.
        drawn = [*noise_seeds, *noise_seeds] if len(noise_seeds) == 1 and self.device.type == "cpu" else noise_seeds
        latents = self._denoised(prompt_embeds, drawn)
        if self.spec.vae_slicing:
            latents = latents[: len(noise_seeds)]
        pictures = decoded(self._pipeline, latents, self.spec.height, self.spec.width)[: len(noise_seeds)]
        if broken := [seed for seed, picture in zip(noise_seeds, pictures, strict=True) if picture is None]:
            raise PictureError(
                f"pixels are not finite (noise seed {', '.join(map(str, broken))}); the adaptation diverged, or the "
                "weights or the chosen kernels are broken"
            )
        return [picture for picture in pictures if picture]

    def _denoised(self, prompt_embeds: PromptEmbeds, noise_seeds: Sequence[int]) -> Tensor:
        """Packed latents (images, tokens, channels) at the end of sampling."""
        count = len(noise_seeds)
        embeds, mask = _repeat(prompt_embeds, count)
        conditions = {"prompt_embeds": embeds, "prompt_embeds_mask": mask}
        scale = self.spec.true_cfg_scale
        guidance: AbstractContextManager[None] = nullcontext()
        if self._negative is not None and self.spec.joint_guidance:
            guidance, scale = joint_guidance(self.transformer, prompt_embeds, self._negative, scale), 1.0
        elif self._negative is not None:
            embeds, mask = _repeat(self._negative, count)
            conditions |= {"negative_prompt_embeds": embeds, "negative_prompt_embeds_mask": mask}
        with guidance:
            latents: Tensor = self._pipeline(
                **conditions,
                true_cfg_scale=scale,
                height=self.spec.height,
                width=self.spec.width,
                num_inference_steps=self.spec.steps,
                latents=self._packed_noise(noise_seeds),
                output_type="latent",
            ).images
        return latents

    def _packed_noise(self, noise_seeds: Sequence[int]) -> Tensor:
        """Initial noise as the pipeline takes it: in the model's dtype, 2 x 2 latents a token."""
        channels, stride = int(self._pipeline.vae.config.z_dim), self._pipeline.vae_scale_factor
        height, width = self.spec.height // stride, self.spec.width // stride
        noise = initial_noise(noise_seeds, channels, height, width).to(self.device, self._dtype)
        packed: Tensor = self._pipeline._pack_latents(noise, len(noise), channels, height, width)
        return packed

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

    def _transformer_with(self, adapter: Adapter | None) -> AbstractContextManager[None]:
        """The transformer as it draws with an adapter: the step-distilled LoRA is on it as well."""
        if self._step_lora:
            adapter = beside(self._step_lora, adapter)
        return attached(self.transformer, adapter, self._dtype) if adapter else nullcontext()

    def check_intact(self) -> None:
        if weights_digest(self.modules(), self.device) != self._base_digest:
            raise RuntimeError("the base weights of the backbone have changed")

    def text_modules(self, names: Sequence[str], layers: Sequence[int]) -> tuple[str, ...]:
        return language_modules(self.text_encoder, self.layer_count, names, layers)

    def question_tokens(self, question: str, answer: str, form: QuestionForm) -> tuple[Tensor, Tensor]:
        if form == "chat":
            before, after = self._pipeline.prompt_template_encode.format(question), answer
        else:
            # In running text a word is a token together with the blank before it; a reply has none.
            before, after = question, f" {answer}"
        question_ids, answer_ids = self._token_ids(before), self._token_ids(after)
        if not answer.strip() or not answer_ids:
            raise MethodError(f"question {question!r}: the answer {answer!r} has no token")
        if not question_ids:
            raise MethodError(f"question {question!r} with the answer {answer!r} has no token")
        limit = int(self._pipeline.text_encoder.config.text_config.max_position_embeddings)
        if len(question_ids) + len(answer_ids) > limit:
            raise MethodError(
                f"question {question!r}: {len(question_ids) + len(answer_ids)} tokens with its answer, "
                f"the text encoder takes {limit}"
            )
        input_ids = torch.tensor([question_ids + answer_ids[:-1]], device=self.device)
        labels = torch.full_like(input_ids, IGNORED)
        labels[0, len(question_ids) - 1 :] = torch.tensor(answer_ids, device=self.device)
        return input_ids, labels

    def _token_ids(self, text: str) -> list[int]:
        ids: list[int] = self._pipeline.tokenizer(text)["input_ids"]
        return ids

    def language_logits(self, input_ids: Tensor) -> Tensor:
        self._bring(self.text_encoder)
        logits: Tensor = self.text_encoder(input_ids=input_ids).logits
        return logits

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> LatentDistribution:
        vae = self._pipeline.vae
        # One at a time, for memory. The VAE is one for video: an image is a clip (1, 3, 1, height, width).
        clips = [self._pixels(image)[None, :, None].to(self.device, self._dtype) for image in images]
        posteriors = [vae.encode(clip).latent_dist for clip in clips]
        shape = (1, vae.config.z_dim, 1, 1)
        mean = torch.tensor(vae.config.latents_mean, device=self.device).view(shape)
        std = torch.tensor(vae.config.latents_std, device=self.device).view(shape)
        return LatentDistribution(
            (torch.cat([posterior.mean[:, :, 0] for posterior in posteriors]).float() - mean) / std,
            torch.cat([posterior.std[:, :, 0] for posterior in posteriors]).float() / std,
        )

    def _pixels(self, image: Image.Image) -> Tensor:
        size = (self.spec.width, self.spec.height)
        fitted = ImageOps.fit(image, size, method=Image.Resampling.BILINEAR)
        pixels: Tensor = pil_to_tensor(fitted)
        return pixels.float() / 127.5 - 1

    def velocity(self, noisy_latents: Tensor, sigma: Tensor, prompt_embeds: PromptEmbeds) -> Tensor:
        self._bring(self.transformer)
        batch, channels, height, width = noisy_latents.shape
        packed = self._pipeline._pack_latents(noisy_latents, batch, channels, height, width)
        embeds, mask = _repeat(prompt_embeds, batch)
        predicted: Tensor = self.transformer(
            hidden_states=packed.to(self._dtype),
            timestep=sigma.to(self.device),
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=None if prompt_embeds.mask is None else mask,
            img_shapes=[[(1, height // 2, width // 2)]] * batch,
            return_dict=False,
        )[0]
        scale = self._pipeline.vae_scale_factor
        unpacked: Tensor = self._pipeline._unpack_latents(predicted, height * scale, width * scale, scale)
        velocity: Tensor = unpacked.squeeze(2).float()
        return velocity


def _underscored(adapter: Adapter) -> dict[str, Tensor]:
    """An adapter's tensors under names that a `ParameterDict` takes."""
    return {name.replace(".", "_"): tensor for name, tensor in adapter.weights.items()}


def _repeat(prompt_embeds: PromptEmbeds, count: int) -> tuple[Tensor, Tensor]:
    """Embeddings and mask of one prompt for a batch; an explicit mask of ones stands for "no mask"."""
    embeds = prompt_embeds.embeds
    mask = prompt_embeds.mask
    if mask is None:
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    return embeds.expand(count, -1, -1), mask.expand(count, -1)
