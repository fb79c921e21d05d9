"""How far two pictures of the same prompt and noise are apart."""

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
    """How alike two pictures are: `clip_i`, cosine of their embeddings; `patch_cosine`, mean cosine of their patches;
    and `rmse`, their distance in pixels."""
    embeddings = encoder.embed_files([before, after])
    images = [read_image(before), read_image(after)]
    patches = encoder.patch_features(images)
    return {
        "clip_i": float(token_cosines(embeddings[before], embeddings[after])),
        "patch_cosine": patch_cosine(patches[0], patches[1]),
        "rmse": rmse(*images),
    }


def rmse(one: Image.Image, other: Image.Image) -> float:
    """`sqrt(mean((a - b)^2)) / 255` over all 8-bit RGB values: 0 for equal pictures, 1 for black and white."""
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return float(np.sqrt(np.square(difference).mean())) / 255


def patch_cosine(one: Tensor, other: Tensor) -> float:
    """Mean cosine of the patch features (patches, dim) at the same places of two pictures.

    Unlike the pooled embedding's, which forgives what CLIP was not trained to tell apart, it falls when something
    moves or changes its form; it stands in for a self-supervised encoder's (DINO's).
    """
    return float(token_cosines(one, other).mean())
