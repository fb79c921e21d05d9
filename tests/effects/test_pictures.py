"""Distances of images by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from knowcusbench.effects.pictures import patch_cosine, rmse


def test_rmse_is_zero_for_equal_and_one_for_opposite_pictures() -> None:
    black, white = (Image.new("RGB", (4, 4), colour) for colour in ("black", "white"))
    assert rmse(black, black) == 0
    assert rmse(black, white) == 1


def test_rmse_is_the_root_of_the_mean_square() -> None:
    one = Image.fromarray(np.zeros((1, 2, 3), np.uint8))
    # Differences 3 and 4 on one channel of six values, which would wrap around in bytes.
    other = Image.fromarray(np.array([[[3, 0, 0], [0, 4, 0]]], np.uint8))
    assert rmse(one, other) == pytest.approx((25 / 6) ** 0.5 / 255)
    assert rmse(other, one) == rmse(one, other)


def test_patches_are_compared_place_by_place() -> None:
    left = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert patch_cosine(left, left) == 1
    assert patch_cosine(left, left.flip(0)) == 0
    assert patch_cosine(left, torch.tensor([[5.0, 0.0], [1.0, 1.0]])) == pytest.approx((1 + 0.5**0.5) / 2)
