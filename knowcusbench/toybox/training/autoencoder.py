"""Stage `vae`: the autoencoder learns to repeat pictures of the world, then its decoder alone to repeat things.

Things are a small part of a picture, and tiny ones hardly count in its mean error, so that their colours and patterns
were lost; what is left of them in the latents, the decoder learns to show.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from torch import Tensor, nn

from knowcusbench.toybox.pipeline import build_vae
from knowcusbench.toybox.render import mask, render
from knowcusbench.toybox.scene import Scene
from knowcusbench.toybox.training.loop import Losses, Schedule, train
from knowcusbench.toybox.world import draw_scene, settled, size_word

SCHEDULE = Schedule(steps=4000, batch_size=16, learning_rate=2e-3, decay_from=0.3, average=0.995, weight_decay=0.0)

DECODER_SCHEDULE = replace(SCHEDULE, steps=1500, seed=1)

THING_WEIGHT = 4.0
"""Of pixels of things, beside 1 for all, in the decoder's own training; half of its scenes have a tiny main thing."""

KL_WEIGHT = 1e-5
"""Of the divergence from a normal distribution, per latent: enough to keep latents in one range."""

STATISTICS_IMAGES = 512

LOG_VARIANCE = -10.0
"""Of the posterior in the end, for every latent."""


def train_vae(folder: Path, device: torch.device) -> AutoencoderKLQwenImage:
    """The trained autoencoder with its `latents_mean` and `latents_std`, in fp32."""
    torch.manual_seed(SCHEDULE.seed)
    vae = build_vae()
    for module in vae.modules():
        if isinstance(module, QwenImageCausalConv3d):
            # A single frame meets the last temporal tap alone. Zeros are smaller in an archive than noise.
            module.weight.data[:, :, :-1] = 0
    vae.to(device)

    def losses(step: int, generator: torch.Generator) -> Losses:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        pictures = pixels([draw_scene(rng) for _ in range(SCHEDULE.batch_size)]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(pictures).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        error = decoded.float() - pictures
        divergence = posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()
        return {
            "square": error.square().mean(),
            "absolute": 0.2 * error.abs().mean(),
            "divergence": KL_WEIGHT * divergence.sum(dim=1).mean(),
        }

    with single_frames():
        train(vae, losses, SCHEDULE, folder, label="vae")
        mean, std = _statistics(vae, device)
    narrow(vae)
    vae.register_to_config(latents_mean=mean, latents_std=std)
    train_decoder(vae, folder / "decoder", device)
    return vae


def train_decoder(vae: AutoencoderKLQwenImage, folder: Path, device: torch.device) -> None:
    """Train the decoder on; latents stay as they are."""
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)

    def losses(step: int, generator: torch.Generator) -> Losses:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        scenes = [draw_decoder_scene(rng) for _ in range(DECODER_SCHEDULE.batch_size)]
        pictures = pixels(scenes).to(device)
        weight = 1 + THING_WEIGHT * torch.stack([covered(scene) for scene in scenes])[:, None, None].to(device)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(pictures).latent_dist.mean
            decoded = vae.decode(latents).sample
        error = decoded.float() - pictures
        return {"square": (weight * error.square()).mean(), "absolute": 0.2 * (weight * error.abs()).mean()}

    with single_frames():
        train(vae, losses, DECODER_SCHEDULE, folder, label="decoder")
    vae.requires_grad_(True)


def draw_decoder_scene(rng: random.Random) -> Scene:
    """A scene with a tiny main thing half of the time, and as the transformer draws it in seven of ten cases."""
    scene = draw_scene(rng)
    while rng.random() < 1 / 2 and size_word(scene.main.size) != "tiny":
        scene = draw_scene(rng)
    return settled(scene) if rng.random() < 0.7 else scene


def covered(scene: Scene) -> Tensor:
    """Which pixels (64, 64) show a thing: 1, else 0."""
    views = [scene, replace(scene, main=scene.second)] if scene.second else [scene]
    return torch.from_numpy(np.logical_or.reduce([mask(view) for view in views])).float()


@torch.no_grad()
def narrow(vae: AutoencoderKLQwenImage) -> None:
    """Make the posterior as narrow as those of full-size autoencoders, whatever the picture.

    In training, latents that hold little come to have a posterior that is wider than the distribution of their means.
    Normalised by the latter, draws from it would be noise that no transformer can predict.
    """
    rows = slice(vae.config.z_dim, None)
    vae.quant_conv.weight[rows] = 0
    vae.quant_conv.bias[rows] = LOG_VARIANCE


def pixels(scenes: list[Scene]) -> Tensor:
    """Pictures of scenes, values from -1 to 1, shape (scenes, 3, 1, 64, 64): one frame each."""
    array = np.stack([np.asarray(render(scene)) for scene in scenes])
    return torch.from_numpy(array).permute(0, 3, 1, 2).unsqueeze(2).float() / 127.5 - 1


@contextmanager
def single_frames() -> Iterator[None]:
    """While it lasts, the autoencoder's convolutions are two-dimensional: the same for a single frame, and faster."""
    forward = QwenImageCausalConv3d.forward

    def flat(self: Any, frames: Tensor, cache_x: Tensor | None = None) -> Tensor:
        left, _, top, _, _, _ = self._padding
        convolved = nn.functional.conv2d(
            frames.squeeze(2), self.weight[:, :, -1], self.bias, stride=self.stride[1:], padding=(top, left)
        )
        return convolved.unsqueeze(2)

    QwenImageCausalConv3d.forward = flat
    try:
        yield
    finally:
        QwenImageCausalConv3d.forward = forward


@torch.no_grad()
def _statistics(vae: AutoencoderKLQwenImage, device: torch.device) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each latent channel."""
    rng = random.Random("latents")
    latents = []
    for _ in range(STATISTICS_IMAGES // 64):
        latents.append(vae.encode(pixels([draw_scene(rng) for _ in range(64)]).to(device)).latent_dist.mean)
    channels = torch.cat(latents).transpose(0, 1).flatten(1)
    return channels.mean(dim=1).tolist(), channels.std(dim=1).tolist()
