"""Changes merged into weights and rounded."""

import pytest
import torch
from torch import nn

from knowcusbench.adapters.merging import BLOCK, merged, retained_gain

SHAPE = (BLOCK + 300, 24)
"""Shape with more rows than one block."""


def a_model(dtype: torch.dtype) -> nn.Sequential:
    layer = nn.Linear(SHAPE[1], SHAPE[0], bias=False).requires_grad_(False)
    layer.weight.copy_(0.02 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)))
    return nn.Sequential(layer).to(dtype)


def a_change(size: float) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    down = torch.randn(3, SHAPE[1], generator=generator)
    return {"0": (down, size * torch.randn(SHAPE[0], 3, generator=generator))}


def dense(change: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    down, up = change["0"]
    return (up.double() @ down.double()).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_merged_weights_are_the_rounded_dense_sum(dtype: torch.dtype) -> None:
    model, change = a_model(dtype), a_change(1e-2)
    before = model[0].weight.clone()
    with merged(model, change):
        inside = model[0].weight.clone()
    wanted = (before.float() + dense(change)).to(dtype)
    # The product's own last bit may, very rarely, tip a rounding by one step.
    assert (inside != wanted).float().mean() < (1e-3 if dtype == torch.bfloat16 else 0.5)
    torch.testing.assert_close(
        inside.float(), wanted.float(), rtol=2**-7 if dtype == torch.bfloat16 else 1e-6, atol=1e-8
    )
    assert torch.equal(model[0].weight, before)


def test_weights_are_put_back_after_an_error_and_keep_their_place() -> None:
    model = a_model(torch.bfloat16)
    before, place = model[0].weight.clone(), model[0].weight.data_ptr()
    with pytest.raises(ZeroDivisionError), merged(model, a_change(1.0)):
        1 / 0  # noqa: B018
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.data_ptr() == place


@pytest.mark.parametrize("size", [1e-6, 3e-5, 1e-3])
def test_the_retained_gain_is_what_the_rounded_weights_say(size: float) -> None:
    model, change = a_model(torch.bfloat16), a_change(size)
    weight, wanted = model[0].weight.double(), dense(change).double()
    rounded = (model[0].weight.float() + dense(change)).bfloat16().double()
    expected = float(((rounded - weight) * wanted).sum() / wanted.square().sum())
    assert retained_gain(model, change) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert torch.equal(model[0].weight.double(), weight)


def test_small_changes_are_lost_in_bf16_and_kept_in_fp32() -> None:
    assert retained_gain(a_model(torch.bfloat16), a_change(1e-6)) < 0.2
    assert retained_gain(a_model(torch.bfloat16), a_change(1e-1)) == pytest.approx(1, abs=1e-2)
    assert retained_gain(a_model(torch.float32), a_change(1e-6)) == pytest.approx(1, abs=1e-3)


def test_a_change_of_nothing_loses_nothing() -> None:
    assert retained_gain(a_model(torch.bfloat16), a_change(0.0)) == 1.0


def test_the_retained_gain_sums_over_matrices() -> None:
    """A large change outweighs a small one that is lost."""
    model = nn.Sequential(a_model(torch.bfloat16)[0], a_model(torch.bfloat16)[0])
    small, large = a_change(1e-6)["0"], a_change(1e-1)["0"]
    assert retained_gain(model, {"0": small, "1": large}) == pytest.approx(1, abs=1e-2)


def test_weights_that_moved_meanwhile_are_put_back_where_they_are_now() -> None:
    """A model that waits in main memory while another one works comes back in new storage."""
    model = a_model(torch.bfloat16)
    before = model[0].weight.clone()
    with merged(model, a_change(1e-1)):
        assert not torch.equal(model[0].weight, before)
        model[0].weight.data = model[0].weight.data.clone()
    assert torch.equal(model[0].weight, before)
