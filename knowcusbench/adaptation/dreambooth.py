"""DreamBooth with LoRA on the transformer: stage 1 of the paper, and its whole Naive-DB baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tqdm import trange

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.class_images import ClassImages
from knowcusbench.adaptation.losses import Losses
from knowcusbench.adaptation.released import load_released
from knowcusbench.adapters.cost import Meter, measured
from knowcusbench.adapters.types import Adaptation, Initialization
from knowcusbench.backbone.base import Backbone, LatentDistribution, PromptEmbeds
from knowcusbench.benchmark.types import Concept
from knowcusbench.errors import ConfigError, MethodError
from knowcusbench.storage.images import read_image

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TRAINER = 3
"""Version of the training, raised when the same settings would give other weights; part of the cache key."""

TOKEN = "{token}"


@dataclass(frozen=True, kw_only=True)
class DreamBooth:
    """DreamBooth-LoRA (arXiv 2208.12242) as in diffusers' `train_dreambooth_lora_qwen_image.py`.

    Deviations from that trainer, each for a measured fault of it: LoRA weights are fp32 masters also on a bf16 model;
    the VAE's posterior is drawn anew at every step from its cached mean and standard deviation; prior preservation goes
    through all class images; AdamW is not quantised.

    Attributes:
        steps: optimiser steps.
        learning_rate: constant rate, or the first one with `decay`.
        rank, alpha: rank and alpha of the LoRA; its scaling is alpha / rank.
        init: initialisation of the LoRA. That trainer's is `gaussian`, which on layers of 3072 inputs at rank 4 is 24
            times larger than `uniform`: with Adam, the weights then change more at the same learning rate.
        batch_size: reference images per step, taken in a new order every epoch.
        weight_decay, max_grad_norm: AdamW's weight decay, and the clipping norm of the gradient.
        adam_beta2: AdamW's decay rate of squared gradients. It remembers about 1 / (1 - beta2) steps: in a much shorter
            training, the first gradients scale the last steps, too.
        seed: seed of LoRA initialisation, image order, posterior, noise and noise levels.
        target_modules: linear layers of the transformer that get a LoRA, by full names or their ends (`add_k_proj`,
            `transformer_blocks.0.attn.add_k_proj`). Empty for the backbone's own, which for Qwen-Image are that
            trainer's: the attention projections of the image stream.
        decay: whether the learning rate falls linearly to zero.
        contexts: prompts under which the reference images are trained, in turn; `{}` stands for the instance prompt,
            `{token}` for the instance prompt without its class noun.
        prompt_noise: standard deviation of the noise on these prompts' embeddings, new in every step (NEFTune, arXiv
            2310.05914), in standard deviations of the embeddings; 0 for none. Without it the concept may be drawn from
            the very states of the trained prompts alone.
        prior_images: class images for prior preservation, drawn by the unadapted backbone; 0 is off, and the class noun
            itself then absorbs much of the concept (the `leak` control shows how much).
        prior_weight: weight of the prior loss.
        prior_every: steps from one prior loss to the next; a step with it takes twice as long.
        prior_prompts: prompts under which the class images are drawn and trained, in turn; `{}` stands for the class
            noun. Other prompts preserve other things that the backbone draws.
        use_released: take the LoRA that the benchmark's release ships for the concept instead of training one.
    """

    steps: int
    learning_rate: float
    rank: int
    alpha: float
    init: Initialization = "gaussian"
    batch_size: int = 1
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    adam_beta2: float = 0.999
    seed: int = 42
    target_modules: tuple[str, ...] = ()
    decay: bool = False
    contexts: tuple[str, ...] = ("{}",)
    prompt_noise: float = 0.0
    prior_images: int = 0
    prior_weight: float = 1.0
    prior_every: int = 1
    prior_prompts: tuple[str, ...] = ("{}",)
    use_released: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.rank, self.batch_size, self.prior_every) < 1 or self.prior_images < 0:
            raise ConfigError(
                "dreambooth: expected steps, rank, batch_size and prior_every of at least 1 and prior_images of at "
                f"least 0, found steps={self.steps}, rank={self.rank}, batch_size={self.batch_size}, "
                f"prior_every={self.prior_every}, prior_images={self.prior_images}"
            )
        if not self.contexts or not all("{}" in context or TOKEN in context for context in self.contexts):
            raise ConfigError(
                f"dreambooth: expected at least one of contexts, with {{}} for the instance prompt or {TOKEN} for that "
                f"without its class noun in each, found contexts={list(self.contexts)}"
            )
        if not 0 <= self.adam_beta2 < 1:
            raise ConfigError(f"dreambooth: expected adam_beta2 of at least 0 and below 1, found {self.adam_beta2}")
        if not 0 <= self.prompt_noise < math.inf:
            raise ConfigError(f"dreambooth: expected prompt_noise of at least 0, found {self.prompt_noise}")
        if not self.prior_prompts or 0 < self.prior_images < len(self.prior_prompts):
            raise ConfigError(
                "dreambooth: expected at least one of prior_prompts, and a class image for each, found "
                f"{len(self.prior_prompts)} prior_prompts and prior_images={self.prior_images}"
            )

    @property
    def training_passes(self) -> int:
        """Number of forward and backward passes of the transformer at batch 1."""
        if self.use_released:
            return 0
        prior_steps = -(-self.steps // self.prior_every) if self.prior_images else 0
        return (self.steps + prior_steps) * self.batch_size

    def fit(self, concept: Concept, backbone: Backbone, instance_prompt: str, cache: AdapterCache) -> Adaptation:
        """Teach the transformer that `instance_prompt` shows the concept (in the `contexts`, by default alone).

        Returns an adaptation with a transformer adapter and the cost of stage "visual". Raises MethodError for a
        concept without reference images, for a missing released checkpoint with `use_released`, and for a training that
        diverges.
        """
        if self.use_released:
            return load_released(concept)
        if not concept.images:
            raise MethodError(f"concept {concept.name!r} has no reference images; DreamBooth needs at least one")
        return cache.get(
            self._key(concept, backbone, instance_prompt),
            lambda: self._train(concept, backbone, instance_prompt, cache.class_images),
        )

    def _key(self, concept: Concept, backbone: Backbone, instance_prompt: str) -> dict[str, Any]:
        return {
            "trainer": TRAINER,
            "settings": asdict(self),
            "backbone": backbone.digest,
            "image_size": list(backbone.image_size),
            "images": concept.images_digest,
            "instance_prompt": instance_prompt,
            "class_noun": concept.class_noun if self.prior_images or self._names_the_token else None,
            **({"class_images": dict(backbone.sampling)} if self.prior_images else {}),
            **({} if backbone.noise_shift == 1 else {"noise_shift": backbone.noise_shift}),
            **backbone.settings,
        }

    @property
    def _names_the_token(self) -> bool:
        return any(TOKEN in context for context in self.contexts)

    def _train(
        self, concept: Concept, backbone: Backbone, instance_prompt: str, class_images: ClassImages
    ) -> Adaptation:
        import torch

        from knowcusbench.adapters.lora import adapted_layers, extract, trainable

        targets = backbone.lora_targets
        if self.target_modules:
            targets = adapted_layers(backbone.transformer, self.target_modules)
        generator = torch.Generator().manual_seed(self.seed)
        losses = Losses(
            f"concept {concept.name!r}", "recipe.dreambooth.learning_rate (of naive_db: recipe.naive_db.learning_rate)"
        )
        with measured("visual", backbone.device) as meter:
            instance = self._instance(concept, backbone, instance_prompt, generator)
            prior = self._prior(concept.class_noun, backbone, class_images, meter, generator)
            with trainable(backbone.transformer, targets, self.rank, self.alpha, self.seed, self.init) as parameters:
                optimizer = torch.optim.AdamW(
                    parameters.values(),
                    lr=self.learning_rate,
                    betas=(0.9, self.adam_beta2),
                    weight_decay=self.weight_decay,
                    fused=True,
                )
                for step in trange(self.steps, desc=f"dreambooth {concept.name}", leave=False, disable=None):
                    if self.decay:
                        optimizer.param_groups[0]["lr"] = self.learning_rate * (1 - step / self.steps)
                    terms = [instance[step % len(instance)]]
                    if prior and step % self.prior_every == 0:
                        terms.append(prior[step // self.prior_every % len(prior)])
                    loss = torch.stack([term.loss(backbone, generator) for term in terms]).sum()
                    loss.backward()  # type: ignore[no-untyped-call]
                    torch.nn.utils.clip_grad_norm_(parameters.values(), self.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                    losses.add(loss)
                adapter = losses.trained(extract(backbone.transformer))
        backbone.check_intact()
        details = {"dreambooth_loss": losses.mean(slice(-10, None))}
        return Adaptation(transformer=adapter, cost=meter.cost, details=details)

    def _instance(
        self, concept: Concept, backbone: Backbone, instance_prompt: str, generator: torch.Generator
    ) -> list[Objective]:
        """Return one objective per context: the reference images under the instance prompt in it."""
        references = backbone.encode_images([read_image(path) for path in concept.images])
        batches = posterior_draws(references, self.batch_size, generator)
        token = instance_prompt.removesuffix(concept.class_noun).strip()
        prompts = [context.replace(TOKEN, token).replace("{}", instance_prompt) for context in self.contexts]
        return [Objective(batches, backbone.encode(prompt), 1.0, self.prompt_noise) for prompt in prompts]

    def _prior(
        self,
        class_noun: str,
        backbone: Backbone,
        class_images: ClassImages,
        meter: Meter,
        generator: torch.Generator,
    ) -> list[Objective]:
        """Return one objective per prior prompt: class images under that prompt; empty if prior preservation is off."""
        prior = []
        for number, template in enumerate(self.prior_prompts if self.prior_images else ()):
            prompt = template.replace("{}", class_noun)
            count = len(range(number, self.prior_images, len(self.prior_prompts)))
            images = backbone.encode_images(class_images.drawn(prompt, count, backbone, meter))
            draws = posterior_draws(images, self.batch_size, generator)
            prior.append(Objective(draws, backbone.encode(prompt), self.prior_weight))
        return prior


@dataclass(frozen=True)
class Objective:
    """A term of the loss.

    Attributes:
        batches: endless batches of latents.
        prompt_embeds: the prompt from which these latents shall be drawn.
        weight: weight of the term.
        prompt_noise: noise on the prompt's embeddings, in their standard deviations.
    """

    batches: Iterator[Tensor]
    prompt_embeds: PromptEmbeds
    weight: float
    prompt_noise: float = 0.0

    def loss(self, backbone: Backbone, generator: torch.Generator) -> Tensor:
        """Return the weighted flow-matching loss of the next batch, at noise and noise levels from `generator`."""
        import torch

        from knowcusbench.adaptation.flow_matching import draw_sigmas, flow_matching_loss, noisy_latents

        latents = next(self.batches)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        sigma = draw_sigmas(len(latents), generator, backbone.noise_shift).to(latents.device)
        prompt = self.prompt_embeds
        if self.prompt_noise:
            embeds = prompt.embeds.float()
            moved = torch.randn(embeds.shape, generator=generator).to(embeds.device) * embeds.std() * self.prompt_noise
            prompt = replace(prompt, embeds=(embeds + moved).to(prompt.embeds.dtype))
        velocity = backbone.velocity(noisy_latents(latents, noise, sigma), sigma, prompt)
        return self.weight * flow_matching_loss(velocity, latents, noise)


def posterior_draws(latents: LatentDistribution, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield draws from the posterior of `size` images at a time, without end, in a new order every epoch."""
    import torch

    order: list[int] = []
    while True:
        while len(order) < size:
            order += torch.randperm(len(latents.mean), generator=generator).tolist()
        chosen, order = order[:size], order[size:]
        mean, std = latents.mean[chosen], latents.std[chosen]
        yield mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)
