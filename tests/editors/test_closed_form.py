import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knowcusbench.editors.closed_form import (
    RunningMoments,
    edit_factors,
    edit_values,
    frobenius_norm,
    published_factors,
    recompress,
    relative_error,
)


def moments_of(*chunks: torch.Tensor) -> RunningMoments:
    moments = RunningMoments()
    for chunk in chunks:
        moments.update(chunk)
    return moments


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(0, 2**31))
def test_moments_are_numpys_for_every_chunking(sizes: list[int], seed: int) -> None:
    # Far from zero and of very different scales, where naive sums of squares cancel.
    generator = np.random.default_rng(seed)
    rows = generator.normal(1e4, 1.0, (sum(sizes), 3)) * np.array([1e-3, 1.0, 1e3])
    chunks = np.split(rows, np.cumsum(sizes)[:-1])

    moments = moments_of(*(torch.from_numpy(chunk) for chunk in chunks))

    assert moments.count == len(rows)
    assert np.allclose(moments.mean, rows.mean(0), rtol=1e-12)
    if len(rows) > 1:
        assert np.allclose(moments.std, rows.std(0, ddof=1), rtol=1e-6)


def test_one_row_is_centred_and_not_scaled() -> None:
    row = torch.tensor([[1.0, -2.0, 3.0]])
    moments = moments_of(row)
    assert torch.equal(moments.std, torch.ones(3, dtype=torch.float64))
    assert torch.equal(moments.normalise(row), torch.zeros(1, 3, dtype=torch.float64))


@pytest.mark.parametrize("value", [0.0, 0.1, -12345.678])
def test_a_component_that_never_changes_is_not_scaled(value: float) -> None:
    # Eleven: the mean of eleven equal numbers is off by rounding.
    changing = torch.arange(11, dtype=torch.float64)
    rows = torch.stack([torch.full_like(changing, value), changing], dim=1)
    moments = moments_of(rows)
    assert moments.std[0] == 1.0
    assert moments.normalise(rows)[:, 0].abs().max() < 1e-9
    assert moments.std[1].item() == pytest.approx(np.std(np.arange(11), ddof=1))


def test_normalised_rows_have_mean_zero_and_deviation_one() -> None:
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3 + 7
    normalised = moments_of(rows).normalise(rows)
    assert torch.allclose(normalised.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(normalised.std(0), torch.ones(4, dtype=torch.float64))


def test_edit_values_follow_the_formula_row_by_row() -> None:
    generator = torch.Generator().manual_seed(1)
    keys, gradients = torch.randn(6, 3, generator=generator), torch.randn(6, 2, generator=generator)
    joint = np.concatenate([keys.numpy(), gradients.numpy()], axis=1).astype(np.float64)
    normalised = (joint - joint.mean(0)) / joint.std(0, ddof=1)
    expected = [[-0.1 * sum(h**2 for h in row[:3]) * g for g in row[3:]] for row in normalised]

    values = edit_values(keys, gradients, moments_of(torch.cat([keys, gradients], dim=1)), eta=0.1)

    assert np.allclose(values, expected, rtol=1e-10)


@pytest.mark.parametrize(("rows", "width"), [(1, 24), (5, 24), (40, 24)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("solve_in", [torch.float64, torch.float32])
def test_factors_equal_the_dense_solve_of_the_paper(
    rows: int, width: int, dtype: torch.dtype, tolerance: float, solve_in: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(2)
    keys = torch.randn(rows, width, generator=generator, dtype=torch.float64) * 3
    values = torch.randn(rows, 10, generator=generator, dtype=torch.float64)
    dense = np.linalg.inv(keys.T.numpy() @ keys.numpy() + np.eye(width)) @ keys.T.numpy() @ values.numpy()

    down, up = edit_factors(keys.to(dtype), values.to(dtype), dtype=solve_in)

    assert down.dtype == up.dtype == solve_in
    if solve_in == torch.float32:
        # With more rows than inputs, the parts of V that no input reaches cancel.
        tolerance = 5e-5 if rows > width else 1e-5
    assert down.shape == (rows, width)
    assert up.shape == (10, rows)
    error = np.linalg.norm((up.double() @ down.double()).T.numpy() - dense) / np.linalg.norm(dense)
    assert error < tolerance
    small_down, small_up = published_factors(keys, values)
    assert np.linalg.norm((small_up @ small_down).T.numpy() - dense) < 1e-3 * np.linalg.norm(dense)


def near_parallel_factors() -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors of thirty almost equal keys, as answers with the same beginning have: the raw factors cancel."""
    generator = torch.Generator().manual_seed(3)
    keys = torch.randn(1, 64, generator=generator) * 10 + 1e-2 * torch.randn(30, 64, generator=generator)
    return edit_factors(keys, torch.randn(30, 48, generator=generator))


def test_recompressed_factors_keep_the_stated_energy_with_the_fewest_directions() -> None:
    generator = torch.Generator().manual_seed(4)
    down = torch.randn(12, 40, generator=generator, dtype=torch.float64)
    up = torch.randn(30, 12, generator=generator, dtype=torch.float64) * torch.logspace(0, -5, 12)
    squared = np.linalg.svd((up @ down).numpy(), compute_uv=False) ** 2
    kept = np.cumsum(squared) / squared.sum()
    wanted_rank = int(np.argmax(kept >= 0.999)) + 1

    small_down, small_up = recompress(down, up, energy=0.999)

    assert small_down.shape == (wanted_rank, 40)
    lost = ((small_up @ small_down - up @ down).norm() / (up @ down).norm()) ** 2
    assert torch.isclose(1 - lost, torch.tensor(kept[wanted_rank - 1]))


def test_full_energy_changes_nothing() -> None:
    down, up = near_parallel_factors()
    small_down, small_up = recompress(down, up, energy=1.0)
    assert torch.allclose(small_up @ small_down, up @ down, atol=1e-9)


def test_recompressed_factors_survive_bf16_where_the_raw_ones_do_not() -> None:
    down, up = near_parallel_factors()
    exact = up @ down

    def bf16_error(a: torch.Tensor, b: torch.Tensor) -> float:
        product = a.bfloat16().double() @ b.bfloat16().double()
        return float((product - exact).norm() / exact.norm())

    small_down, small_up = recompress(down, up, energy=0.999999)

    assert bf16_error(small_up, small_down) < 5e-3
    assert bf16_error(up, down) > 10 * bf16_error(small_up, small_down)


def test_recompressing_an_edit_that_is_zero_gives_zero() -> None:
    small_down, small_up = recompress(torch.ones(3, 5), torch.zeros(4, 3), energy=0.99)
    assert (small_up @ small_down).eq(0).all()


def test_norm_and_relative_error_are_those_of_the_dense_products() -> None:
    generator = torch.Generator().manual_seed(5)
    down, up = torch.randn(7, 30, generator=generator), torch.randn(20, 7, generator=generator)
    other_down, other_up = down[:3], up[:, :3]
    assert frobenius_norm(down, up) == pytest.approx(float((up @ down).norm()), rel=1e-5)
    expected = float((other_up @ other_down - up @ down).norm() / (up @ down).norm())
    assert relative_error((other_down, other_up), (down, up)) == pytest.approx(expected, rel=1e-5)
    assert relative_error((down, up), (down, up)) < 1e-14
    assert relative_error((down, torch.zeros_like(up)), (down, torch.zeros_like(up))) == 0.0
