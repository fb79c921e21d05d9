"""Stage `sam`: train the metrics' SAM on the masks of things.

For the box around the whole picture, the miniature segmenter's prompt, the mask is that of the main thing; for a box
around a thing or a point on it, that of this thing.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from knowcusbench.encoders.segmenters.base import Box, Mask
from knowcusbench.encoders.segmenters.boxes import WholeImageBoxes
from knowcusbench.encoders.segmenters.sam import SamSpec
from knowcusbench.storage.files import atomic_path
from knowcusbench.toybox.models.encoders import SAM_PATCH_SIZE, sam_model, sam_processor, save_sam
from knowcusbench.toybox.world.benchmark import references
from knowcusbench.toybox.world.concepts import NOVEL_CONCEPTS
from knowcusbench.toybox.world.draws import between, choose
from knowcusbench.toybox.world.render import mask, render
from knowcusbench.toybox.world.scene import RESOLUTION, Scene
from knowcusbench.toybox.world.vocabulary import STYLES
from knowcusbench.toymaker.instruments import draw_any_scene, to_tensor, waves
from knowcusbench.toymaker.loop import Losses, Schedule, mixed, train
from knowcusbench.toymaker.oracle import disturb

SCHEDULE = Schedule(steps=3200, batch_size=16, learning_rate=2e-3, decay_from=0.47, average=0.99, weight_decay=0.01)

POINTS = 1 / 4
"""Share of batches prompted by points."""

SINGLE = 1 / 4
"""Share of batches with a single mask instead of three."""

WHOLE: Box = (0.0, 0.0, float(RESOLUTION), float(RESOLUTION))


def train_segmenter(directory: Path, folder: Path, device: torch.device) -> None:
    """Train, and write the checkpoint into a new directory.

    The loss of every proposed mask is cross-entropy and Dice; the predicted IoU is compared with the true one.

    Args:
        folder: for the state of the training.
    """
    model = sam_model().to(device)
    across = RESOLUTION // SAM_PATCH_SIZE
    with torch.no_grad():
        model.vision_encoder.pos_embed.copy_(
            waves(across, model.vision_encoder.pos_embed.shape[-1]).view(1, across, across, -1)
        )
    normalize = sam_processor().image_processor
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (normalize.image_mean, normalize.image_std))

    def losses(step: int, generator: torch.Generator) -> Losses:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        scenes = [draw_any_scene(rng) for _ in range(SCHEDULE.batch_size)]
        pixels = to_tensor([np.asarray(render(scene)) for scene in scenes])
        pixels = (disturb(pixels * 2 - 1, generator) + 1) / 2
        prompts, masks = draw_prompts(scenes, rng, points=rng.random() < POINTS)
        with mixed(device):
            features = model.vision_encoder(((pixels - mean) / std).to(device)).last_hidden_state
        outputs = model(
            image_embeddings=features.float(),
            **{name: values.to(device) for name, values in prompts.items()},
            multimask_output=rng.random() >= SINGLE,
        )
        return mask_losses(outputs.pred_masks, outputs.iou_scores, masks.to(device))

    with sdpa_kernel(SDPBackend.MATH):  # On CPUs, the fused kernels have a slower backward.
        train(model, losses, SCHEDULE, folder, label="sam")
    with atomic_path(directory) as temporary:
        save_sam(model, temporary)


def draw_prompts(scenes: Sequence[Scene], rng: random.Random, *, points: bool) -> tuple[dict[str, Tensor], Tensor]:
    """Draw two prompts for each scene in the form of `SamModel`, and their target masks (scenes, 2, 64, 64).

    Either the box around the picture and a box around a thing, up to two pixels too wide or too narrow on each side; or
    a point on the main thing and one on any thing.
    """
    prompts: list[list[list[float]]] = []
    masks = []
    for scene in scenes:
        views = [scene, replace(scene, main=scene.second)] if scene.second else [scene]
        wanted = [mask(scene), mask(choose(rng, views))]
        if points:
            prompts.append([point_on(covered, rng) for covered in wanted])
        else:
            box = [side + between(rng, -2, 2) for side in box_around(wanted[1])]
            prompts.append([list(WHOLE), [min(max(side, 0.0), RESOLUTION) for side in box]])
        masks.append(np.stack(wanted))
    form = torch.tensor(prompts, dtype=torch.float32)
    given = {"input_points": form[:, :, None]} if points else {"input_boxes": form}
    return given, torch.from_numpy(np.stack(masks)).float()


def box_around(covered: Mask) -> Box:
    """Return the smallest box that holds a mask."""
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def point_on(covered: Mask, rng: random.Random) -> list[float]:
    """Return the middle of a random pixel of a mask: column and row."""
    row, column = choose(rng, np.argwhere(covered).tolist())
    return [column + 0.5, row + 0.5]


def mask_losses(logits: Tensor, predicted_iou: Tensor, masks: Tensor) -> Losses:
    """Return the losses of mask proposals.

    Args:
        logits: (scenes, prompts, proposals, 64, 64).
        predicted_iou: (scenes, prompts, proposals).
        masks: (scenes, prompts, 64, 64).
    """
    wanted = masks.unsqueeze(2).expand_as(logits)
    probability = logits.sigmoid()
    both = (probability * wanted).sum(dim=(-2, -1))
    dice = 1 - (2 * both + 1) / (probability.sum(dim=(-2, -1)) + wanted.sum(dim=(-2, -1)) + 1)
    with torch.no_grad():
        shown, covered = logits > 0, wanted > 0.5
        true_iou = (shown & covered).sum(dim=(-2, -1)) / (shown | covered).sum(dim=(-2, -1))
    return {
        "pixels": 5 * functional.binary_cross_entropy_with_logits(logits, wanted),
        "dice": dice.mean(),
        "iou": functional.mse_loss(predicted_iou, true_iou),
    }


def segmenter(directory: Path) -> SamSpec:
    """Return a checkpoint's specification with the miniature metrics' prompt."""
    return SamSpec(source=str(directory), boxes=WholeImageBoxes(), device="cpu", batch_size=16)


def evaluate_segmenter(directory: Path, *, scenes: int = 400) -> dict[str, float]:
    """Return the mean IoU with the exact masks.

    `references` is over the benchmark's reference pictures, and `scenes` over held-out scenes, also by style and for
    those with a second thing, all for the box around the whole picture. `tight` is for the boxes around their main
    things.
    """
    shown = [scene for concept in NOVEL_CONCEPTS for scene in references(concept)]
    rng = random.Random("held-out scenes for sam")
    drawn = [draw_any_scene(rng) for _ in range(scenes)]
    predictor = segmenter(directory).predictor()

    def overlaps_of(some: Sequence[Scene], boxes: Sequence[Box]) -> list[float]:
        found = predictor.predict([render(scene) for scene in some], boxes)
        return [iou(one, mask(scene)) for one, scene in zip(found, some, strict=True)]

    overlaps = overlaps_of(drawn, [WHOLE] * len(drawn))
    figures = {
        "references": overlaps_of(shown, [WHOLE] * len(shown)),
        "scenes": overlaps,
        "second": [overlap for overlap, scene in zip(overlaps, drawn, strict=True) if scene.second],
        "tight": overlaps_of(drawn, [box_around(mask(scene)) for scene in drawn]),
    }
    for style in STYLES:
        figures[style] = [overlap for overlap, scene in zip(overlaps, drawn, strict=True) if scene.style == style]
    return {f"iou {name}": float(np.mean(values)) for name, values in figures.items()}


def iou(one: Mask, other: Mask) -> float:
    """Return the intersection over union of two masks of one size.

    >>> iou(np.array([[True, True]]), np.array([[True, False]]))
    0.5
    """
    return float((one & other).sum() / max((one | other).sum(), 1))
