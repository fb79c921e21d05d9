"""Stage `vae`: train the autoencoder to reproduce pictures of the world, then above all the things in them.

Things are a small part of a picture, and tiny ones hardly count in its mean error: before the second step, their
colours and patterns were lost.
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
from numpy.typing import NDArray
from torch import Tensor, nn

from knowcusbench.storage.files import atomic_path
from knowcusbench.toybox.models.pipeline import build_vae
from knowcusbench.toybox.world.render import mask, render
from knowcusbench.toybox.world.scene import Scene
from knowcusbench.toybox.world.world import draw_scene, settled, size_word
from knowcusbench.toymaker.loop import Losses, Schedule, compile_layers, in_processes, mixed, train

SCHEDULE = Schedule(steps=4000, batch_size=16, learning_rate=2e-3, decay_from=0.3, average=0.995, weight_decay=0.0)

THINGS_SCHEDULE = replace(SCHEDULE, steps=3800, batch_size=32, learning_rate=1e-3, seed=2)

THING_WEIGHT = 0.5
"""Weight of each thing, shared among its pixels, once the posterior is narrow; a whole picture has 1.

A pixel of a tiny thing has about ten times the weight of one of a huge thing. Half of these scenes have a tiny main
thing.
"""

LATENT_NOISE = 0.1
"""Standard deviation of the strongest noise added to latents then, in units of a latent's own.

It makes the decoder robust to latents drawn by a transformer, and the encoder's latents of things distinct.
"""

KL_WEIGHT = 1e-5
"""Weight of the divergence from a normal distribution, per latent: enough to keep latents in one range."""

STATISTICS_IMAGES = 512

LOG_VARIANCE = -10.0
"""Log variance of the final posterior, for every latent."""


def train_vae(folder: Path, device: torch.device, processes: int = 1) -> AutoencoderKLQwenImage:
    """Return the trained autoencoder with its `latents_mean` and `latents_std`, in fp32."""
    things = folder / "things"
    if not (folder / "whole").exists():
        vae = train_whole(folder, device)
        with atomic_path(folder / "whole") as temporary:
            vae.save_pretrained(temporary)
    in_processes(processes, train_things, things, folder / "whole", device)
    return AutoencoderKLQwenImage.from_pretrained(things / "vae").to(device)


def train_whole(folder: Path, device: torch.device) -> AutoencoderKLQwenImage:
    """Train to reproduce pictures, and make the posterior narrow."""
    torch.manual_seed(SCHEDULE.seed)
    vae = build_vae()
    for module in vae.modules():
        if isinstance(module, QwenImageCausalConv3d):
            # A single frame uses only the last temporal tap. Zeros compress better than noise.
            module.weight.data[:, :, :-1] = 0
    vae.to(device)

    def losses(step: int, generator: torch.Generator) -> Losses:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        pictures = pixels([draw_scene(rng) for _ in range(SCHEDULE.batch_size)]).to(device)
        with mixed(device):
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
        set_statistics(vae, device)
    narrow(vae)
    return vae


def train_things(rank: int, processes: int, folder: Path, whole: Path, device: torch.device) -> None:
    """Continue the training of an autoencoder, and write `folder / "vae"`."""
    vae = AutoencoderKLQwenImage.from_pretrained(whole).to(device)
    share = THINGS_SCHEDULE.batch_size // processes
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(device)

    def losses(step: int, generator: torch.Generator) -> Losses:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        scenes = [draw_scene_of_things(rng) for _ in range(share)]
        pictures = pixels(scenes).to(device)
        weight = torch.stack([pixel_weights(scene) for scene in scenes])[:, None, None].to(device)
        with mixed(device):
            latents = vae.encode(pictures).latent_dist.mean.float()
            noise = torch.randn(latents.shape, generator=generator)
            noise *= LATENT_NOISE * torch.rand(share, 1, 1, 1, 1, generator=generator)
            decoded = vae.decode(latents + std * noise.to(device)).sample
        error = decoded.float() - pictures
        return {"square": (weight * error.square()).mean(), "absolute": 0.2 * (weight * error.abs()).mean()}

    for part in (vae.encoder, vae.decoder):
        compile_layers(part, device)
    with single_frames():
        train(vae, losses, THINGS_SCHEDULE, folder, label="things")
        if rank == 0:
            set_statistics(vae, device)
            with atomic_path(folder / "vae") as temporary:
                vae.save_pretrained(temporary)


def draw_scene_of_things(rng: random.Random) -> Scene:
    """Draw a scene with a tiny main thing in half of the cases, and with a settled layout in seven of ten."""
    scene = draw_scene(rng)
    while rng.random() < 1 / 2 and size_word(scene.main.size) != "tiny":
        scene = draw_scene(rng)
    return settled(scene) if rng.random() < 0.7 else scene


def pixel_weights(scene: Scene) -> Tensor:
    """Return the weights of the pixels (64, 64) of a scene."""
    views = [scene, replace(scene, main=scene.second)] if scene.second else [scene]
    masks = [torch.from_numpy(mask(view)).float() for view in views]
    return torch.stack([THING_WEIGHT * covered / covered.mean() for covered in masks]).sum(dim=0) + 1


@torch.no_grad()
def narrow(vae: AutoencoderKLQwenImage) -> None:
    """Make the posterior as narrow as those of full-size autoencoders, for every picture.

    In training, the posterior of latents with little content becomes wider than the distribution of their means.
    Normalised by the latter, draws from it would be noise that no transformer can predict.
    """
    rows = slice(vae.config.z_dim, None)
    vae.quant_conv.weight[rows] = 0
    vae.quant_conv.bias[rows] = LOG_VARIANCE


def pixels(scenes: list[Scene]) -> Tensor:
    """Return pictures of scenes, values from -1 to 1, shape (scenes, 3, 1, 64, 64): one frame each."""
    return as_pixels(torch.from_numpy(drawn(scenes)))


def drawn(scenes: list[Scene]) -> NDArray[np.uint8]:
    """Return pictures of scenes, values from 0 to 255, shape (scenes, 64, 64, 3)."""
    return np.stack([np.asarray(render(scene)) for scene in scenes])


def as_pixels(pictures: Tensor) -> Tensor:
    """Convert drawn pictures to the autoencoder's input."""
    return pictures.permute(0, 3, 1, 2).unsqueeze(2).float() / 127.5 - 1


@contextmanager
def single_frames() -> Iterator[None]:
    """Make the autoencoder's convolutions two-dimensional inside the block: the same for a single frame, and faster."""
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
def set_statistics(vae: AutoencoderKLQwenImage, device: torch.device) -> None:
    """Set mean and standard deviation of each latent channel."""
    rng = random.Random("latents")
    latents = []
    for _ in range(STATISTICS_IMAGES // 64):
        latents.append(vae.encode(pixels([draw_scene(rng) for _ in range(64)]).to(device)).latent_dist.mean)
    channels = torch.cat(latents).transpose(0, 1).flatten(1)
    vae.register_to_config(latents_mean=channels.mean(dim=1).tolist(), latents_std=channels.std(dim=1).tolist())
