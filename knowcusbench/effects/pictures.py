"""Distance between two images of the same prompt and noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from knowcusbench.effects.text import token_cosines
from knowcusbench.encoders.clip import ClipEncoder
from knowcusbench.storage.images import read_image

if TYPE_CHECKING:
    from torch import Tensor


def picture_measures(encoder: ClipEncoder, before: Path, after: Path) -> dict[str, float]:
    """Return three measures of how alike two images are.

    `clip_i` is the cosine of their embeddings, `patch_cosine` the mean cosine of their patches, and `rmse` their
    distance in pixels.
    """
    embeddings = encoder.embed_files([before, after])
    images = [read_image(before), read_image(after)]
    patches = encoder.patch_features(images)
    return {
        "clip_i": float(token_cosines(embeddings[before], embeddings[after])),
        "patch_cosine": patch_cosine(patches[0], patches[1]),
        "rmse": rmse(*images),
    }


def rmse(one: Image.Image, other: Image.Image) -> float:
    """Return `sqrt(mean((a - b)^2)) / 255` over all 8-bit RGB values: 0 for equal images, 1 for black and white.

    >>> rmse(Image.new("RGB", (2, 2), "black"), Image.new("RGB", (2, 2), "white"))
    1.0
    """
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return float(np.sqrt(np.square(difference).mean())) / 255


def patch_cosine(one: Tensor, other: Tensor) -> float:
    """Return the mean cosine of the patch features (patches, dim) of two images, position by position.

    The pooled embedding's cosine overlooks differences that CLIP was not trained to tell apart. This one falls when
    something moves or changes its form; it replaces the cosine of a self-supervised encoder (DINO).

    >>> import torch
    >>> patch_cosine(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [1.0, 0.0]]))
    0.5
    """
    return float(token_cosines(one, other).mean())
