"""Nearest concepts, confusion and retrieval on hand-made embeddings."""

import math

import pandas as pd
import pytest
import torch

from knowcusbench.effects.interference import (
    confusion_matrix,
    mean_embeddings,
    nearest_concept,
    reference_accuracy,
    retrieval_accuracy,
)


def directions(*degrees: float) -> torch.Tensor:
    """Return unit vectors in the plane."""
    radians = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([radians.cos(), radians.sin()], dim=1)


REFERENCES = {"cat": directions(0, 40), "dog": directions(90, 100, 110), "far": directions(180)}


def test_the_nearest_concept_is_that_of_the_mean_reference() -> None:
    means = mean_embeddings(REFERENCES)
    torch.testing.assert_close(means["cat"], directions(20)[0].double(), atol=1e-6, rtol=0)
    # 59 degrees is nearer to the mean of cat (20) than of dog (100), though dog's nearest reference (90) is 31 away and
    # cat's mean 39: the mean decides.
    assert nearest_concept(directions(59)[0], means) == "cat"
    assert nearest_concept(directions(61)[0], means) == "dog"
    assert nearest_concept(directions(141)[0], means) == "far"


def test_the_mean_is_a_direction_however_spread_the_references_are() -> None:
    """A mean of different references is short; its length must not count against it."""
    means = mean_embeddings({"spread": directions(-60, 60), "tight": directions(80)})
    assert nearest_concept(directions(35)[0], means) == "spread"


def test_references_are_left_out_of_their_own_mean() -> None:
    # Without itself, cat's 40 is nearer to 0 (40 away) than to dog (60); dog's are 5 to 15 away from the others.
    assert reference_accuracy(REFERENCES)["cat"] == 1
    # Left out, each of two far references is nearer to the concept between them.
    accuracy = reference_accuracy({"wide": directions(0, 100), "between": directions(40, 42)})
    assert accuracy == {"wide": 0, "between": 1}
    assert math.isnan(reference_accuracy(REFERENCES)["far"])


def test_confusion_counts_pictures_by_wanted_and_nearest_concept() -> None:
    wanted = ["cat", "cat", "cat", "dog"]
    nearest = ["cat", "dog", "dog", "dog"]
    matrix = confusion_matrix(wanted, nearest, ["dog", "cat", "far"])
    assert matrix.loc["cat"].to_dict() == {"dog": 2, "cat": 1, "far": 0}
    assert matrix.loc["dog"].to_dict() == {"dog": 1, "cat": 0, "far": 0}
    assert matrix.loc["far"].sum() == 0
    # The mean is over concepts, not images: (1/3 + 1) / 2. A concept without images does not count.
    assert retrieval_accuracy(matrix) == pytest.approx(2 / 3)


def test_without_pictures_there_is_no_accuracy() -> None:
    matrix = confusion_matrix([], [], ["dog", "cat"])
    assert isinstance(matrix, pd.DataFrame)
    assert math.isnan(retrieval_accuracy(matrix))
