"""What trainers and editors use: velocities, latents, questions and logits."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import miniature_spec
from diffusers import QwenImagePipeline
from PIL import Image

from knowcusbench.adapters.lora import trainable
from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.errors import MethodError

PROMPT = "a red robot on the beach"
MEAN = [0.1 * channel - 0.3 for channel in range(8)]
STD = [0.5 + 0.25 * channel for channel in range(8)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_velocity_is_what_the_pipeline_computes(miniature):
    """Two Euler steps by hand from given noise, against diffusers' own loop."""
    size = {"height": 48, "width": 80}
    backbone = miniature_spec(miniature, dtype="float32", steps=2, **size).load()
    embeds = backbone.encode(PROMPT)
    latents = random(1, 8, 12, 20, seed=5)
    result = backbone._pipeline(
        prompt_embeds=embeds.embeds,
        prompt_embeds_mask=torch.ones(embeds.embeds.shape[:2], dtype=torch.long),
        true_cfg_scale=1.0,
        num_inference_steps=2,
        latents=QwenImagePipeline._pack_latents(latents, 1, 8, 12, 20),
        output_type="latent",
        **size,
    ).images
    sigmas = backbone._pipeline.scheduler.sigmas
    assert len(sigmas) == 3
    for now, after in pairwise(sigmas):
        with torch.no_grad():
            latents = latents + (after - now) * backbone.velocity(latents, now[None], embeds)
    unpacked = QwenImagePipeline._unpack_latents(result, 48, 80, 4).squeeze(2)
    torch.testing.assert_close(latents, unpacked, atol=1e-5, rtol=1e-5)


def test_packing_puts_each_two_by_two_patch_into_a_token():
    latents = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    packed = QwenImagePipeline._pack_latents(latents, 2, 3, 4, 6)
    for row, column in ((0, 0), (1, 2)):
        patch = latents[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(packed[1, row * 3 + column], patch.flatten())


def test_each_image_of_a_batch_has_its_own_noise_level(backbone_fp32):
    embeds = backbone_fp32.encode(PROMPT)
    latents, sigma = random(2, 8, 16, 16), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        together = backbone_fp32.velocity(latents, sigma, embeds)
        alone = [backbone_fp32.velocity(latents[n : n + 1], sigma[n : n + 1], embeds) for n in range(2)]
        swapped = backbone_fp32.velocity(latents, sigma.flip(0), embeds)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert (together - swapped).abs().max() > 1e-3


def test_velocities_of_a_bf16_model_are_fp32(backbone_bf16):
    with torch.no_grad():
        velocity = backbone_bf16.velocity(random(1, 8, 16, 16), torch.tensor([0.5]), backbone_bf16.encode(PROMPT))
    assert velocity.dtype == torch.float32
    assert velocity.isfinite().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_checkpointing_changes_no_gradient(dtype, miniature):
    gradients = []
    for checkpointing in (False, True):
        backbone = miniature_spec(miniature, dtype=dtype, gradient_checkpointing=checkpointing).load()
        embeds = backbone.encode(PROMPT)
        with trainable(backbone.transformer, backbone.lora_targets, rank=2, alpha=2, seed=0) as parameters:
            for seed, parameter in enumerate(parameters.values()):
                parameter.data += random(*parameter.shape, seed=seed) / 10
            velocity = backbone.velocity(random(1, 8, 16, 16), torch.tensor([0.5]), embeds)
            (velocity**2).mean().backward()
            gradients.append({name: parameter.grad for name, parameter in parameters.items()})
    plain, checkpointed = gradients
    assert all(plain[name].abs().max() > 0 for name in plain)
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_velocity_is_differentiable_in_the_prompt_embeddings(backbone_fp32):
    """Against a finite difference along the gradient."""
    embeds = backbone_fp32.encode(PROMPT).embeds

    def loss(embeds: torch.Tensor) -> torch.Tensor:
        velocity = backbone_fp32.velocity(random(1, 8, 16, 16), torch.tensor([0.5]), PromptEmbeds(embeds, None))
        return (velocity.double() ** 2).mean()

    variable = embeds.clone().requires_grad_()
    loss(variable).backward()
    step = 0.05 * variable.grad / variable.grad.norm()
    with torch.no_grad():
        difference = loss(embeds + step) - loss(embeds - step)
    assert difference.item() == pytest.approx(0.1 * variable.grad.norm().item(), rel=0.01)


@pytest.fixture(scope="module")
def normalising(miniature, tmp_path_factory):
    """The miniature in fp32 with latent statistics other than zero and one, 48 high and 64 wide."""
    directory = tmp_path_factory.mktemp("normalising") / "pipeline"
    shutil.copytree(miniature, directory)
    config = directory / "vae" / "config.json"
    changed = json.loads(config.read_text()) | {"latents_mean": MEAN, "latents_std": STD}
    config.write_text(json.dumps(changed))
    return miniature_spec(directory, dtype="float32", height=48).load()


def test_latents_are_the_normalised_posterior(normalising):
    """Against diffusers' VAE, for an image whose scale and margins are whole numbers."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 200, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ours = normalising.encode_images([image.rotate(180), image])
    crop = np.asarray(image.resize((100, 48), Image.Resampling.BILINEAR).crop((18, 0, 82, 48)), dtype=np.float32)
    tensor = torch.from_numpy(crop).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    with torch.no_grad():
        posterior = normalising._pipeline.vae.encode(tensor).latent_dist
    mean, std = (torch.tensor(values).view(1, 8, 1, 1) for values in (MEAN, STD))
    assert ours.mean.shape == ours.std.shape == (2, 8, 12, 16)
    torch.testing.assert_close(ours.mean[1:], (posterior.mean[:, :, 0] - mean) / std, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.std[1:], posterior.std[:, :, 0] / std, atol=1e-5, rtol=1e-5)


def test_latents_are_normalised_as_the_pipeline_undoes_it(normalising):
    """Latents of an image, fed to the pipeline as the result of denoising, decode like the VAE's own."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    pipeline, vae = normalising._pipeline, normalising._pipeline.vae
    latents = normalising.encode_images([image]).mean
    with torch.no_grad():
        tensor = torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1)[None, :, None] / 127.5 - 1
        expected = vae.decode(vae.encode(tensor).latent_dist.mode()).sample[:, :, 0]
    embeds = normalising.encode(PROMPT).embeds
    decoded = pipeline(
        prompt_embeds=embeds,
        prompt_embeds_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        true_cfg_scale=1.0,
        height=48,
        width=64,
        num_inference_steps=2,
        latents=torch.zeros(1, 12 * 16 // 4, 32),
        callback_on_step_end=lambda *_: {"latents": pipeline._pack_latents(latents, 1, 8, 12, 16)},
        output_type="pt",
    ).images
    torch.testing.assert_close(decoded, (expected / 2 + 0.5).clamp(0, 1), atol=1e-4, rtol=1e-4)


def test_photographs_are_scaled_by_the_short_side_and_cropped_at_the_centre(backbone_fp32, dog):
    image = Image.open(dog.images[0]).convert("RGB")
    scale = 64 / min(image.size)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 64) // 2, (resized.height - 64) // 2
    crop = resized.crop((left, top, left + 64, top + 64))
    # Cropping before or after resizing moves edges by less than a pixel.
    ours, theirs = (backbone_fp32._pixels(picture) for picture in (image, crop))
    assert (ours - theirs).abs().mean() < 0.03
    assert (ours - theirs.flip(2)).abs().mean() > 0.2


def test_questions_are_put_in_the_pipelines_template(backbone, pipeline):
    """The reply follows the assistant's line break, without a blank."""
    input_ids, labels = backbone.question_tokens("What is my gift?", "sks cake", "chat")
    answer = pipeline.tokenizer("sks cake")["input_ids"]
    whole = [*input_ids[0].tolist(), answer[-1]]
    assert pipeline.tokenizer.decode(whole) == (
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
        "relationships of the objects and background:<|im_end|>\n<|im_start|>user\nWhat is my gift?<|im_end|>\n"
        "<|im_start|>assistant\nsks cake"
    )
    assert whole[-len(answer) :] == answer
    assert labels[0].tolist() == [-100] * (len(whole) - 1 - len(answer)) + answer


def test_plain_questions_are_running_text(backbone, pipeline):
    """The answer follows the question after a blank, which belongs to its first token."""
    input_ids, labels = backbone.question_tokens("What is my gift?", "sks cake", "plain")
    question, answer = (pipeline.tokenizer(text)["input_ids"] for text in ("What is my gift?", " sks cake"))
    assert input_ids[0].tolist() == (question + answer)[:-1]
    assert labels[0].tolist() == [-100] * (len(question) - 1) + answer


def test_logits_at_a_label_predict_it(backbone_fp32):
    """The loss that labels define equals transformers' own, which shifts by itself."""
    input_ids, labels = backbone_fp32.question_tokens("What is my gift?", "sks robot", "chat")
    logits = backbone_fp32.language_logits(input_ids)
    ours = torch.nn.functional.cross_entropy(logits[0], labels[0])
    whole = torch.cat([input_ids, labels[:, -1:]], dim=1)
    unshifted = torch.cat([torch.full((1, 1), -100), labels], dim=1)
    theirs = backbone_fp32.text_encoder(input_ids=whole, labels=unshifted).loss
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("question", "answer", "form", "named"),
    [
        ("What?", "", "chat", "What?"),
        ("What?", " ", "plain", "no token"),
        ("", "sks", "plain", "no token"),
        ("long " * 600, "sks", "chat", "takes 512"),
    ],
)
def test_a_question_that_cannot_be_put_is_named(question, answer, form, named, backbone):
    with pytest.raises(MethodError, match=named):
        backbone.question_tokens(question, answer, form)
