"""Stage `oracle`: train the oracle to read pictures.

It is a measuring instrument, so it sees every combination equally often, also those reserved for benchmarks: no
evaluated model is trained on its answers. A third of the pictures are decoded by the pipeline's VAE, like all pictures
it will read.
"""

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor
from torch.nn import functional

from knowcusbench.machine.device import fast_dtype
from knowcusbench.storage.files import atomic_path
from knowcusbench.toybox.models.oracle import ATTRIBUTES, OracleSpec, hidden, truth
from knowcusbench.toybox.models.oracle_net import OracleNet, answers, box, moved, pixels, save_oracle
from knowcusbench.toybox.world.draws import choose
from knowcusbench.toybox.world.render import render
from knowcusbench.toybox.world.scene import Scene, Thing
from knowcusbench.toybox.world.vocabulary import BACKGROUNDS, CLASSES, COLOURS, PATTERNS, SHAPES, SIZES, STYLES
from knowcusbench.toybox.world.world import compose, draw_scene, draw_second, size_word
from knowcusbench.toymaker.autoencoder import single_frames
from knowcusbench.toymaker.loop import Losses, Schedule, mixed, train

SCHEDULE = Schedule(steps=2000, batch_size=64, learning_rate=3e-3, decay_from=0.2)

REPAINTED = 1 / 3
"""The share of pictures that pass through the VAE."""

LATENT_NOISE = 0.2
"""Standard deviation of the strongest noise added to their latents, in units of a latent's own."""

SHAKE = 0.15
"""Largest offset (standard deviation) of the boxes that it learns to read and correct, in sides of the thing.

The average is a third of it.
"""


def train_oracle(directory: Path, folder: Path, device: torch.device, vae: Path) -> None:
    """Train the oracle and write it to `directory`, like `save_oracle`.

    Args:
        folder: for the state of the training.
        vae: the trained VAE of the pipeline.
    """
    autoencoder = (
        AutoencoderKLQwenImage.from_pretrained(vae, torch_dtype=getattr(torch, fast_dtype(device))).to(device).eval()
    )
    torch.manual_seed(SCHEDULE.seed)
    model = OracleNet().to(device).to(memory_format=torch.channels_last)

    def losses(step: int, generator: torch.Generator) -> Losses:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        scenes = [draw_every_scene(rng) for _ in range(SCHEDULE.batch_size)]
        pictures = pixels([render(scene) for scene in scenes]).to(device)
        with single_frames():
            pictures = repaint(autoencoder, pictures, generator)
        pictures = disturb(pictures, generator).contiguous(memory_format=torch.channels_last)
        boxes, there = (tensor.to(device) for tensor in squares(scenes))
        size, shake = torch.rand(len(scenes), 2, 1, generator=generator), torch.randn(boxes.shape, generator=generator)
        shaken = moved(boxes, (SHAKE * size.square() * shake).to(device))
        with mixed(device):
            scene, sure, pointed = model.scan(pictures)
            things, moves = model.read(pictures, shaken)
        words = labels(scenes)
        terms = {
            name: functional.cross_entropy(values, words[name].to(device))
            for name, values in answers(scene, things).items()
        }
        misses = (sure * (pointed - boxes[:, :, None]).abs().mean(dim=3)).sum(dim=2)
        remaining = (moved(shaken, moves) - boxes).abs().mean(dim=2)
        return terms | {"found": 4 * misses[there].mean(), "corrected": 4 * remaining[there].mean()}

    train(model, losses, SCHEDULE, folder, label="oracle")
    with atomic_path(directory) as temporary:
        save_oracle(model, temporary)


def labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """Return the indices (scenes,) of the right words, by attribute."""
    truths = [truth(scene) for scene in scenes]
    return {name: torch.tensor([words.index(sight[name]) for sight in truths]) for name, words in ATTRIBUTES.items()}


def squares(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Return the boxes (scenes, 2, 3) of main and second things, and a mask of the existing ones (scenes, 2)."""
    nowhere = (0.0, 0.0, 0.25)
    boxes = [[box(scene.main), box(scene.second) if scene.second else nowhere] for scene in scenes]
    return torch.tensor(boxes), torch.tensor([[True, scene.second is not None] for scene in scenes])


def draw_every_thing(rng: random.Random) -> Thing:
    """Draw a simple shape (one time in three) or a composite thing.

    All attributes are independent, so there are also reserved things and things with parts of one colour.
    """
    colour, trim, accent = (choose(rng, list(COLOURS)) for _ in range(3))
    pattern = choose(rng, PATTERNS)
    if rng.random() < 1 / 3:
        return Thing(kind=choose(rng, SHAPES), colour=colour, pattern=pattern)
    return Thing(kind=choose(rng, list(CLASSES)), colour=colour, pattern=pattern, trim=trim, accent=accent)


def draw_every_scene(rng: random.Random) -> Scene:
    """Draw a scene of any things.

    Half have a second thing, a quarter of these not plain and simple. Half have a tiny main thing, which is harder to
    read.
    """
    second = None
    if rng.random() < 1 / 2:
        second = draw_second(rng) if rng.random() < 3 / 4 else draw_every_thing(rng)
    return compose(
        rng,
        draw_every_thing(rng),
        background=choose(rng, list(BACKGROUNDS)),
        style=choose(rng, list(STYLES)),
        size=choose(rng, ["tiny", *SIZES]),
        second=second,
    )


@torch.no_grad()
def repaint(vae: AutoencoderKLQwenImage, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures (n, 3, 64, 64) with values from -1 to 1, the last `REPAINTED` of them decoded by the VAE.

    Their latents get a little noise, which imitates that of the transformer.
    """
    kept = len(pictures) - round(REPAINTED * len(pictures))
    latents = vae.encode(pictures[kept:, :, None].to(vae.dtype)).latent_dist.mean
    std = latents.new_tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    strength = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, 1, generator=generator)
    noise = (strength * torch.randn(latents.shape, generator=generator)).to(latents)
    repainted = vae.decode(latents + noise * std, return_dict=False)[0][:, :, 0]
    return torch.cat([pictures[:kept], repainted.float().clamp(-1, 1)])


def disturb(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Imitate the pictures (n, 3, 64, 64) of an imperfect model, values from -1 to 1, in two of three of them.

    They are resampled, blurred or sharpened, and get noise and a tint, all so weak that no word for their content
    changes.
    """
    count, device = len(pictures), pictures.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    side = int(torch.randint(44, 64, (), generator=generator))
    height, width = pictures.shape[2:]
    resampled = functional.interpolate(pictures[: count // 8], (side, side), mode="bilinear", antialias=True)
    resampled = functional.interpolate(resampled, (height, width), mode="bicubic").clamp(-1, 1)
    disturbed = torch.cat([resampled, pictures[count // 8 :]])

    blurred = functional.avg_pool2d(functional.pad(disturbed, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    disturbed = disturbed + (blurred - disturbed) * (draw(count, 1, 1, 1) - 0.3)
    noise = torch.randn(disturbed.shape, generator=generator).to(device)
    disturbed = disturbed + noise * 0.12 * draw(count, 1, 1, 1) ** 2
    disturbed = disturbed * (0.94 + 0.12 * draw(count, 3, 1, 1)) + 0.1 * (draw(count, 3, 1, 1) - 0.5)
    return torch.where(draw(count, 1, 1, 1) < 1 / 3, pictures, disturbed.clamp(-1, 1))


def evaluate_oracle(directory: Path, *, scenes: int = 2000) -> dict[str, float]:
    """Evaluate a checkpoint on held-out scenes.

    For scenes of the world and ("anything") of `draw_every_scene`: the accuracy of each attribute among those that are
    not `hidden`, of all of these together, and that by size and style; and the share of scenes with a hidden attribute.
    """
    oracle = OracleSpec(source=str(directory), device="cpu").load()
    figures: dict[str, float] = {}
    for prefix, draw in (("", draw_scene), ("anything ", draw_every_scene)):
        rng = random.Random("held-out scenes for the oracle")
        drawn = [draw(rng) for _ in range(scenes)]
        results: dict[str, list[bool]] = {}
        for scene, sight in zip(drawn, oracle.look([render(scene) for scene in drawn]), strict=True):
            lost = hidden(scene)
            right = {name: sight[name] == word for name, word in truth(scene).items() if name not in lost}
            size = size_word(scene.main.size) or "middle"
            groups = dict.fromkeys(("all", f"all, {size} {scene.style}"), all(right.values()))
            for name, value in (right | groups | {"hidden": bool(lost)}).items():
                results.setdefault(name, []).append(value)
        figures |= {prefix + name: sum(values) / len(values) for name, values in results.items()}
    return figures
