"""What the contract of a backbone promises, as checks that any family of diffusers pipelines must pass.

A failed check is an AssertionError with a sentence that names the broken promise. Everything is compared with the
pipeline itself, or with arithmetic on its parts; nothing needs a trained model.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from knowcusbench.adaptation.flow_matching import draw_sigmas
from knowcusbench.adapters.lora import attached, trainable
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone.base import PromptEmbeds, QuestionForm
from knowcusbench.backbone.checkpoint import COMPONENTS
from knowcusbench.backbone.loading import quiet_libraries
from knowcusbench.backbone.noise import initial_noise
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.backbone.spec import DiffusersSpec
from knowcusbench.testing.common import require
from knowcusbench.testing.damage import check_damage

EXACT = 1e-5
"""Relative error of what is computed in the same order in fp32, but for the batch. Pixels of an untrained model hardly
show a prompt; its latents do."""

PROMPT, OTHER = "a red robot on the beach", "a house"
SEEDS = (3, 4)

CLOSE = 1e-3
"""Relative error of what is computed in another order in fp32. Each of the mistakes that these checks are for makes
errors of at least 0.05."""


def check_backbone(spec: DiffusersSpec, directory: Path) -> None:
    """Check that a family keeps the promises of `Backbone`.

    Args:
        spec: of a small pipeline on disk, in fp32, drawing with guidance; it is loaded about ten times.
        directory: an empty directory for damaged copies of the pipeline.

    Raises AssertionError for the first broken promise, and ValueError for a specification that can't show them.
    """
    if spec.dtype != "float32" or not spec.is_guided or not Path(spec.source).is_dir():
        raise ValueError("check_backbone needs a directory as source, dtype float32, and guidance that is on")
    backbone = spec.load()
    check_images(spec, backbone)
    check_batches(backbone)
    check_velocity(backbone)
    check_own_levels(backbone)
    check_training_levels(backbone)
    check_latents(backbone)
    check_questions(backbone)
    check_reach(backbone)
    check_gradients(backbone)
    check_adapters(backbone)
    check_counts(spec, backbone)
    check_damage(spec, directory)


def check_images(spec: DiffusersSpec, backbone: DiffusersBackbone) -> None:
    """Images are those of the plain pipeline's call with the same words, and depend on them."""
    family, size = spec.family, (spec.height, spec.width)
    drawn = _drawn(backbone, PROMPT)
    with quiet_libraries():
        pipeline = getattr(diffusers, family.pipeline_class).from_pretrained(
            spec.drawing_source or spec.source, dtype=torch.float32
        )
    pipeline.set_progress_bar_config(disable=True)
    if spec.vae_slicing:
        pipeline.vae.enable_slicing()
    known = inspect.signature(type(pipeline).__call__).parameters
    words = {"negative_prompt": spec.negative_prompt, **family.encoding}

    def plain(output_type: str) -> Any:
        return pipeline(
            prompt=PROMPT,
            **{name: value for name, value in words.items() if name in known},
            **{family.guidance.keyword: spec.true_cfg_scale},
            height=spec.height,
            width=spec.width,
            num_inference_steps=spec.steps,
            num_images_per_prompt=len(SEEDS),
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            output_type=output_type,
        ).images

    expected, found = (
        family.decoder_input(pipeline, latents, *size)
        for latents in (plain("latent"), backbone._denoised(backbone.encode(PROMPT), SEEDS))
    )
    error = _error(found, expected)
    require(error < EXACT, f"latents must be those of the plain pipeline's call; they are {error:.2g} off")
    images = np.stack([np.asarray(image.convert("RGB"), dtype=int) for image in plain("pil")])
    apart = abs(images - drawn).max()
    require(apart <= 1, f"images must be those of the plain pipeline's call; they differ by {apart} grey levels")
    require((drawn != _drawn(backbone, OTHER)).any(), "another prompt must give another image")


def check_batches(backbone: DiffusersBackbone) -> None:
    """A seed gives the same image alone and in any batch, and an embedding does not depend on what was encoded."""
    embeds = backbone.encode(PROMPT)
    alone = [np.asarray(backbone.sample(embeds, [seed])[0]) for seed in SEEDS]
    together = backbone.sample(embeds, [*SEEDS, 5])
    require(
        all(np.array_equal(one, np.asarray(image)) for one, image in zip(alone, together, strict=False)),
        "an image must not depend on the batch that it is drawn in",
    )
    require(not np.array_equal(alone[0], alone[1]), "another noise seed must give another image")
    backbone.encode(f"{OTHER}, {PROMPT}")
    require(torch.equal(backbone.encode(PROMPT).embeds, embeds.embeds), "an embedding depends on earlier prompts")


def check_velocity(backbone: DiffusersBackbone) -> None:
    """Euler steps by hand from `velocity` end where the pipeline's own loop ends."""
    embeds, noise = backbone.encode(PROMPT), _noise(backbone)
    expected = _decoder_input(backbone, embeds, noise)
    latents = noise
    for now, after in pairwise(backbone._drawing.scheduler.sigmas.clone()):
        with torch.no_grad():
            latents = latents + (after - now) * backbone.velocity(latents, now[None], embeds)
    start, found = (_decoder_input(backbone, embeds, each, still=True) for each in (noise, latents))
    error = float((found - expected).norm() / (start - expected).norm())
    require(
        error < CLOSE,
        f"Euler steps from velocity() must end where the pipeline ends; they are {error:.2g} of the way off. Look at "
        "the sign, at the direction of time, and at the positions of the prompt",
    )


def check_own_levels(backbone: DiffusersBackbone) -> None:
    """Each image of a batch has its own noise level."""
    embeds, noise = backbone.encode(PROMPT), _noise(backbone, *SEEDS)
    sigma = torch.tensor([0.2, 0.9])
    with torch.no_grad():
        together, swapped = (backbone.velocity(noise, levels, embeds) for levels in (sigma, sigma.flip(0)))
        alone = [backbone.velocity(noise[n : n + 1], sigma[n : n + 1], embeds) for n in range(2)]
    require(_error(together, torch.cat(alone)) < CLOSE, "velocity() must not depend on the batch")
    require(_error(together, swapped) > CLOSE, "velocity() must depend on each image's own sigma")
    require(together.dtype == torch.float32, f"velocity() must be fp32, it is {together.dtype}")


def check_training_levels(backbone: DiffusersBackbone) -> None:
    """Noise levels in training are those of the scheduler's grid, or of its mirror image."""
    config = backbone._pipeline.scheduler.config
    # With a dynamic shift the grid of training has none.
    grid = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config).sigmas[:1000].float()
    drawn = draw_sigmas(50_000, torch.Generator().manual_seed(0), backbone.noise_shift)
    at = torch.linspace(0.05, 0.95, 19)
    apart = min(float((drawn.quantile(at) - levels.quantile(at)).abs().max()) for levels in (grid, 1 - grid))
    require(
        apart < 0.02,
        f"noise_shift is {backbone.noise_shift:g}, whose levels are not those of the scheduler's static shift; they "
        f"are {apart:.2g} apart",
    )


def check_latents(backbone: DiffusersBackbone) -> None:
    """`encode_images` gives the VAE the image's pixels, and normalises as the pipeline undoes it."""
    height, width = backbone.image_size
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    vae, seen = backbone._pipeline.vae, []
    encode = vae.encode

    def watched(pixels: Tensor, *args: Any, **options: Any) -> Any:
        seen.append((pixels, encode(pixels, *args, **options)))
        return seen[-1][1]

    vae.encode = watched
    try:
        found = backbone.encode_images([Image.fromarray(picture)])
    finally:
        del vae.encode
    (pixels, output), *_ = seen
    expected = torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1
    require(
        torch.allclose(pixels.reshape(pixels.shape[1], height, width)[:3], expected, atol=1e-5),
        "encode_images() must give the VAE the image's pixels in [-1, 1]",
    )
    shape = tuple(backbone.family.latent_shape(vae.config, height, width))
    require(found.mean.shape[1:] == found.std.shape[1:] == shape, f"latents must have the shape {shape}")
    mean = output.latent_dist.mean.float()
    undone = _decoder_input(backbone, backbone.encode(PROMPT), found.mean, still=True)
    error = _error(undone.reshape(mean.shape), mean)
    require(error < CLOSE, f"the pipeline must undo the normalisation of latents; it is {error:.2g} off")
    moved = _decoder_input(backbone, backbone.encode(PROMPT), found.mean + found.std, still=True).reshape(mean.shape)
    require(
        _error(moved - mean, output.latent_dist.std) < CLOSE, "the standard deviation must be normalised as latents"
    )


def check_questions(backbone: DiffusersBackbone) -> None:
    """A question of form "chat" goes through the text encoder as a prompt does, and its tokens are marked in it."""
    input_ids, labels = backbone.question_tokens(PROMPT, "robot", QuestionForm.chat)
    asked = int((labels[0] >= 0).nonzero()[0]) + 1
    inputs: list[Tensor] = []
    layer = backbone.text_encoder.get_submodule(backbone.family.decoder_layer.format(1))
    handle = layer.register_forward_hook(lambda module, args, output: inputs.append(_first(output)))
    try:
        embeds = backbone.encode(PROMPT)
        with torch.no_grad():
            logits = backbone.language_logits(input_ids)
    finally:
        handle.remove()
    encoded, questioned = (each.reshape(-1, each.shape[-1])[:asked] for each in inputs)
    require(
        encoded.shape == questioned.shape and _error(encoded, questioned) < CLOSE,
        "the tokens of a question must be those of the prompt, in the pipeline's template",
    )
    length = embeds.embeds.shape[1]
    tokens = length if embeds.mask is None else int(embeds.mask.sum())
    wanted = asked - backbone.family.dropped_tokens(backbone._pipeline)
    require(tokens == wanted, f"the mask must mark the {wanted} tokens of the prompt, it marks {tokens} of {length}")
    vocabulary = backbone.text_encoder.get_output_embeddings().weight.shape[0]  # type: ignore[operator]
    require(logits.shape == (1, len(input_ids[0]), vocabulary), f"logits have the shape {tuple(logits.shape)}")


def check_reach(backbone: DiffusersBackbone) -> None:
    """`reach` says which decoder layers move an embedding, and which share of it."""
    input_ids, _ = backbone.question_tokens(PROMPT, "robot", QuestionForm.chat)
    require(len(backbone.reach) == backbone.layer_count, "reach must have an entry for each decoder layer")

    @torch.no_grad()
    def look() -> tuple[Tensor, Tensor]:
        return backbone.encode(PROMPT).embeds, backbone.language_logits(input_ids)

    before, answer = look()
    for index, share in enumerate(backbone.reach):
        with attached(backbone.text_encoder, _edit(backbone, index), torch.float32):
            embeds, edited = look()
        found = float((embeds != before).any(1).float().mean())
        require(
            abs(found - share) < 0.05,
            f"an edit of decoder layer {index} moves {found:.2f} of an embedding, reach says {share:.2f}",
        )
        require(not torch.equal(edited, answer), f"an edit of decoder layer {index} must change answers")


def check_gradients(backbone: DiffusersBackbone) -> None:
    """Every factor of a LoRA and the prompt's embeddings have gradients, the same with gradient checkpointing."""
    transformer: Any = backbone.transformer
    encoded, noise = backbone.encode(PROMPT), _noise(backbone)
    generator = torch.Generator().manual_seed(0)

    def loss(embeds: Tensor) -> Tensor:
        return backbone.velocity(noise, torch.tensor([0.6]), PromptEmbeds(embeds, encoded.mask)).square().mean()

    was_checkpointing = bool(transformer.is_gradient_checkpointing)
    gradients: list[dict[str, Any]] = []
    with trainable(transformer, backbone.lora_targets, 2, 2, 0) as parameters:
        for parameter in parameters.values():
            parameter.data += torch.randn(parameter.shape, generator=generator) / 10
        for set_checkpointing in (
            transformer.disable_gradient_checkpointing,
            transformer.enable_gradient_checkpointing,
        ):
            set_checkpointing()
            loss(encoded.embeds).backward()  # type: ignore[no-untyped-call]
            gradients.append({name: parameter.grad for name, parameter in parameters.items()})
            for parameter in parameters.values():
                parameter.grad = None
    transformer.enable_gradient_checkpointing() if was_checkpointing else transformer.disable_gradient_checkpointing()
    plain, checkpointed = gradients
    for name, gradient in plain.items():
        require(gradient is not None and bool(gradient.any()), f"{name} has no gradient; no LoRA may be left out")
        require(torch.equal(gradient, checkpointed[name]), f"gradient checkpointing changes the gradient of {name}")
    embeds = encoded.embeds.clone().requires_grad_()
    reached = loss(embeds)
    if reached.requires_grad:
        reached.backward()  # type: ignore[no-untyped-call]
    require(embeds.grad is not None and bool(embeds.grad.any()), "velocity() must be differentiable in the embeddings")


def check_adapters(backbone: DiffusersBackbone) -> None:
    """Adapters on both models draw another image, and leave the base as it was to the last bit."""
    before, factors = _drawn(backbone, PROMPT), {}
    generator = torch.Generator().manual_seed(0)
    for name in backbone.lora_targets:
        layer: Any = backbone.transformer.get_submodule(name)
        down = torch.randn(2, layer.in_features, generator=generator) / layer.in_features**0.5
        factors[name] = (down, torch.randn(layer.out_features, 2, generator=generator))
    lora, edit = Adapter.from_factors(factors), _edit(backbone, 0)
    for adaptation in (Adaptation(transformer=lora), Adaptation(text_encoder=edit), Adaptation(lora, edit)):
        with backbone.adapted(adaptation):
            require((_drawn(backbone, PROMPT) != before).any(), "an adaptation must change the image")
    require(np.array_equal(_drawn(backbone, PROMPT), before), "without its adaptation the backbone draws another image")


def check_counts(spec: DiffusersSpec, backbone: DiffusersBackbone) -> None:
    """What is counted on configuration files is what is loaded, and each smaller version needs no more."""
    skeleton, footprint = spec.skeleton(), spec.footprint()
    for name in COMPONENTS:
        loaded = sum(parameter.numel() for parameter in backbone.modules()[name].parameters())
        counted = footprint.parameters[name]
        require(counted == loaded, f"footprint() counts {counted} parameters of the {name}, {loaded} are loaded")
    for name in ("lora_targets", "layer_count", "reach"):
        require(getattr(skeleton, name) == getattr(backbone, name), f"skeleton() and load() differ in {name}")
    embeds = backbone.encode(PROMPT).embeds
    width = footprint.prompt_embeds_bytes // footprint.prompt_tokens // embeds.element_size()
    require(embeds.shape[-1] == width, f"embeds_width() says {width}, embeddings have {embeds.shape[-1]}")
    needs = [max(vars(version.memory(4)).values()) for version in (spec, *(each for _, each in spec.smaller()))]
    require(needs == sorted(needs, reverse=True), f"smaller() must need less and less memory, it needs {needs}")


def _drawn(backbone: DiffusersBackbone, prompt: str) -> Any:
    """Pixels (images, height, width, 3) of the images of `SEEDS`."""
    return np.stack([np.asarray(image, dtype=int) for image in backbone.sample(backbone.encode(prompt), SEEDS)])


def _noise(backbone: DiffusersBackbone, *seeds: int) -> Tensor:
    shape = backbone.family.latent_shape(backbone._pipeline.vae.config, *backbone.image_size)
    return initial_noise(seeds or SEEDS[:1], *shape)[:, 0].to(backbone.device)


def _decoder_input(
    backbone: DiffusersBackbone, embeds: PromptEmbeds, latents: Tensor, *, still: bool = False
) -> Tensor:
    """Return what the VAE would decode after the pipeline's loop without guidance, begun at `latents`; with `still`,
    of a loop that moves nothing."""
    family, pipeline, (height, width) = backbone.family, backbone._drawing, backbone.image_size
    with _stilled(pipeline.transformer) if still else torch.no_grad():
        ended = pipeline(
            **family.conditions(embeds, None, len(latents)),
            **{family.guidance.keyword: family.guidance.off},
            height=height,
            width=width,
            num_inference_steps=backbone.spec.steps,
            latents=family.start(pipeline, latents, torch.float32),
            output_type="latent",
        ).images
    return family.decoder_input(pipeline, ended, height, width).float()


@contextmanager
def _stilled(transformer: nn.Module) -> Iterator[None]:
    """During the block, make the transformer predict zeros."""

    def zero(module: nn.Module, args: Any, output: Any) -> Any:
        return tree_map(torch.zeros_like, output)

    handle = transformer.register_forward_hook(zero)
    try:
        yield
    finally:
        handle.remove()


def _edit(backbone: DiffusersBackbone, index: int) -> Adapter:
    """A change of rank 1 to the last linear layer of a decoder layer."""
    prefix = backbone.family.decoder_layer.format(index)
    layers = backbone.text_encoder.get_submodule(prefix).named_modules()
    name, layer = [(name, layer) for name, layer in layers if isinstance(layer, nn.Linear)][-1]
    generator = torch.Generator().manual_seed(index)
    shapes = ((1, layer.in_features), (layer.out_features, 1))
    down, up = (torch.randn(shape, generator=generator) for shape in shapes)
    return Adapter.from_factors({f"{prefix}.{name}": (down, up)})


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found.detach()


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())
