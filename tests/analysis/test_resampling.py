"""Intervals, p-values and ranks against naive loops, scipy, hand-made cases, and a simulation with a known truth."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.interval_simulation import percentiles, simulate, studentised
from scipy import stats

from knowcusbench.analysis.resampling import (
    DECIMALS,
    DRAWS,
    PERMUTATIONS,
    concept_draws,
    drawn_means,
    holm,
    interval,
    mean_kendall,
    rank_shares,
    sign_flip_p_values,
)
from knowcusbench.metrics.bounds import SHARE, cosine_bounds


def ones(values):
    return np.ones_like(values)


def covered(ends, truth):
    low, high = np.transpose(ends)
    return float(((low <= truth) & (truth <= high)).mean())


def scores(generator, concepts, *, samples=5, repeats=1000):
    """Draw scores (repeats, concepts, samples): a standard normal effect per concept, and noise of the same size per
    sample."""
    effects = generator.normal(size=(repeats, concepts, 1))
    return effects + generator.normal(size=(repeats, concepts, samples))


@pytest.mark.parametrize("concepts", [8, 20, 35])
def test_the_interval_covers_the_truth_where_one_of_samples_does_not(concepts):
    drawn = scores(np.random.default_rng(concepts), concepts)
    clustered = covered([interval(means, ones(means)) for means in drawn.mean(axis=2)], 0)
    pooled = drawn.reshape(len(drawn), -1)[:100]
    unclustered = covered([interval(values, ones(values)) for values in pooled], 0)
    print(f"{concepts} concepts: {clustered:.3f} by concepts, {unclustered:.3f} by samples")
    assert 0.93 <= clustered <= 0.97
    assert unclustered < 0.85


def test_the_interval_covers_where_concepts_have_unequal_numbers_of_samples():
    generator = np.random.default_rng(0)
    sizes = generator.integers(5, 60, size=(1000, 20)).astype(float)
    means = generator.normal(size=sizes.shape) + generator.normal(size=sizes.shape) / np.sqrt(sizes)
    share = covered([interval(*pair) for pair in zip(means * sizes, sizes, strict=True)], 0)
    print(f"micro, 20 concepts: {share:.3f}")
    assert 0.93 <= share <= 0.97


@pytest.mark.parametrize(
    ("case", "concepts", "least"),
    [
        ("exponential", 8, 0.89),
        ("exponential", 35, 0.93),
        ("cosine 0.865, outliers", 35, 0.93),
        ("share 0.02", 8, 0.95),
        ("share 0.05", 8, 0.92),
        ("share 0.95", 6, 0.96),
        ("share 0.95", 20, 0.92),
        ("share 0.95, unlike", 8, 0.94),
        ("difference of shares", 8, 0.93),
    ],
)
def test_the_interval_covers_where_a_studentised_or_plain_bootstrap_does_not(case, concepts, least):
    found, width = simulate(case, concepts, 400)
    plain, _ = simulate(case, concepts, 400, percentiles)
    _, studentised_width = simulate(case, concepts, 400, studentised)
    print(f"{case}, {concepts} concepts: {found:.3f}, {plain:.3f} by percentiles")
    assert found >= least
    assert found > plain
    if "outliers" in case:
        assert width < 0.85 * studentised_width


@pytest.mark.parametrize("sizes", [None, np.array([3.0, 9.0, 4.0, 4.0, 20.0, 7.0, 1.0, 5.0])])
def test_its_two_parts_are_textbook_formulas(sizes):
    """BCa with the acceleration of a jackknife, and Student's t of the logit, over explicitly listed concepts."""
    means = np.array([0.7, 0.2, 0.9, 0.55, 0.81, 0.4, 0.66, 0.75])
    sizes = ones(means) if sizes is None else sizes

    def estimate(chosen):
        return sum(means[k] * sizes[k] for k in chosen) / sum(sizes[k] for k in chosen)

    mean = estimate(range(8))
    drawn = np.sort([estimate(np.repeat(np.arange(8), counts.astype(int))) for counts in concept_draws(8)])
    without = np.array([estimate([k for k in range(8) if k != left_out]) for left_out in range(8)])
    influence = without.mean() - without
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    bias = stats.norm.ppf((drawn < mean).mean())
    reach = (8 / 7) ** 0.5 * stats.t.ppf(0.975, 7)
    corrected = []
    for end in (-reach, reach):
        level = stats.norm.cdf(bias + (bias + end) / (1 - acceleration * (bias + end)))
        corrected.append(drawn[int(np.ceil(level * DRAWS)) - 1])

    squares = sum((means[k] * sizes[k] - mean * sizes[k]) ** 2 for k in range(8))
    error = (8 / 7 * squares) ** 0.5 / sum(sizes)
    logit = np.log(mean / (1 - mean))
    ends = [logit + sign * stats.t.ppf(0.975, 7) * error / (mean * (1 - mean)) for sign in (-1, 1)]
    transformed = [1 / (1 + np.exp(-end)) for end in ends]

    low, high = interval(means * sizes, sizes, SHARE)
    # For a ratio the jackknife is another estimate of the same acceleration.
    room = 1e-9 if sizes.max() == 1 else 0.02
    assert low == pytest.approx(min(corrected[0], transformed[0]), abs=room)
    assert high == pytest.approx(max(corrected[1], transformed[1]), abs=room)


def test_over_many_concepts_the_interval_is_scipy_s():
    values = np.random.default_rng(0).gamma(4, size=300)
    found = interval(values, ones(values))
    reference = stats.bootstrap((values,), np.mean, n_resamples=20_000, rng=np.random.default_rng(1))
    ends = reference.confidence_interval
    assert found == pytest.approx((ends.low, ends.high), abs=0.06 * (ends.high - ends.low))


def test_the_interval_of_a_ratio_by_hand():
    """Three concepts, where draws reach less far than Student's t with 2 degrees of freedom: 9 / 5, residuals 0.6,
    -0.8, 0.2."""
    error = (3 / 2 * (0.36 + 0.64 + 0.04)) ** 0.5 / 5
    found = interval(np.array([6.0, 1.0, 2.0]), np.array([3.0, 1.0, 1.0]))
    assert found == pytest.approx((1.8 - 4.30265 * error, 1.8 + 4.30265 * error), rel=1e-5)


def test_cosines_have_the_interval_of_fisher_s_z():
    """The logit on -1 to 1 is twice the inverse hyperbolic tangent."""
    cosines = np.array([0.2, 0.95, 0.9])
    mean, error = cosines.mean(), stats.sem(cosines)
    ends = [np.tanh(np.arctanh(mean) + sign * 4.30265 * error / (1 - mean**2)) for sign in (-1, 1)]
    low, high = interval(cosines, ones(cosines), cosine_bounds(1))
    assert (low, high) == pytest.approx((min(ends[0], 0.2), max(ends[1], 0.95)), rel=1e-4)
    scaled = interval(100 * cosines, ones(cosines), cosine_bounds(100))
    assert scaled == pytest.approx((100 * low, 100 * high), rel=1e-9)


@given(
    st.lists(st.sampled_from([0.0, 0.04, 0.5, 0.96, 1.0]) | st.floats(0, 1), min_size=3, max_size=12),
    st.integers(1, 30),
    st.sampled_from([(SHARE, 1, 0), (cosine_bounds(1), 2, -1), (SHARE.of_differences(), -2, 1)]),
)
@settings(max_examples=150, deadline=None)
def test_an_interval_has_a_width_around_the_mean_and_stays_within_the_bounds(shares, step, scale):
    bounds, factor, start = scale
    scores = start + factor * np.array(shares)
    sizes = 1.0 + np.arange(len(scores)) % step
    low, high = interval(scores * sizes, sizes, bounds)
    mean = (scores * sizes).sum() / sizes.sum()
    assert bounds.low <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= bounds.high
    assert high - low > 1e-12


def test_none_of_n_leaves_room_for_what_was_not_seen():
    """Clopper and Pearson's limits of 0 and 8 successes of 8, and of no difference between two methods."""
    (low, high), exact = interval(np.zeros(8), np.ones(8), SHARE), stats.binomtest(0, 8).proportion_ci()
    assert (low, high) == pytest.approx((exact.low, exact.high))
    (low, high), exact = interval(np.ones(8), np.ones(8), SHARE), stats.binomtest(8, 8).proportion_ci()
    assert (low, high) == pytest.approx((exact.low, exact.high))
    low, high = interval(np.zeros(8), np.ones(8), SHARE.of_differences())
    assert (low, high) == pytest.approx((-0.36942, 0.36942), abs=1e-5)
    assert interval(np.full(8, 0.5), np.full(8, 1.0), SHARE) == pytest.approx((0.5 - 0.18471, 0.5 + 0.18471), abs=1e-5)


def test_scores_beyond_a_bound_by_rounding_are_at_it():
    cosines = 1 + np.array([1e-7, -1e-7, 2e-7, -3e-7])
    low, high = interval(cosines, ones(cosines), cosine_bounds(1))
    assert 0.99 < low < high <= 1


def test_equal_sizes_make_micro_and_macro_the_same():
    means = np.random.default_rng(0).normal(size=12)
    assert interval(means * 5, np.full(12, 5.0)) == pytest.approx(interval(means, ones(means)), rel=1e-9)


def test_fewer_than_three_concepts_have_no_interval_and_equal_scores_without_bounds_neither():
    for count in (0, 1, 2):
        assert interval(np.arange(count, dtype=float), np.ones(count)) is None
        assert interval(np.arange(count, dtype=float), np.ones(count), SHARE) is None
    assert interval(np.full(7, 0.1), np.ones(7)) is None


def test_an_interval_is_the_same_in_every_process():
    values = np.random.default_rng(0).normal(size=8)
    first = interval(values, ones(values))
    concept_draws.cache_clear()
    assert interval(values, ones(values)) == first


@pytest.mark.parametrize("concepts", [3, 8])
def test_p_values_are_exact_where_all_flips_can_be_tried(concepts):
    differences = np.random.default_rng(concepts).normal(0.5, size=(4, concepts))
    expected = [
        np.mean(
            [abs(np.dot(signs, row)) >= abs(row.sum()) - 1e-12 for signs in itertools.product((1, -1), repeat=concepts)]
        )
        for row in differences
    ]
    assert sign_flip_p_values(differences) == pytest.approx(expected, abs=1e-12)


def test_p_values_of_many_concepts_are_close_to_the_exact_ones():
    """Whole numbers, so that the sum's distribution over all 2^35 flips is a convolution."""
    row = np.random.default_rng(0).integers(-5, 9, size=35)
    chances = np.ones(1)
    for value in np.abs(row):
        one = np.zeros(2 * value + 1)
        one[0] += 0.5
        one[-1] += 0.5
        chances = np.convolve(chances, one)
    sums = np.arange(len(chances)) - np.abs(row).sum()
    exact = chances[np.abs(sums) >= abs(row.sum())].sum()
    assert 0.001 < exact < 0.2
    (found,) = sign_flip_p_values(row[None].astype(float))
    assert found == pytest.approx(exact, abs=4 * (exact / PERMUTATIONS) ** 0.5)


def test_identical_methods_have_p_1_and_absent_concepts_change_nothing():
    differences = np.array([[0.3, -0.1, 0.2, 0.4], [0.0, 0.0, 0.0, 0.0]])
    padded = np.concatenate([differences, np.zeros((2, 3))], axis=1)
    assert sign_flip_p_values(differences)[1] == 1
    assert sign_flip_p_values(padded) == pytest.approx(sign_flip_p_values(differences))
    assert sign_flip_p_values(np.array([[0.5]]))[0] == 1


def test_holm_by_hand():
    """Sorted: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04, which is raised to the one before."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1, 1])
    assert holm(np.array([])).size == 0


def test_shares_of_ranks_are_counted_draw_by_draw():
    generator = np.random.default_rng(0)
    means = generator.normal(size=(8, 3))
    sizes = generator.integers(1, 9, size=8).astype(float)
    counted = np.zeros((3, 3))
    for counts in concept_draws(8):
        chosen = np.repeat(np.arange(8), counts.astype(int))
        scores = np.average(means[chosen], axis=0, weights=sizes[chosen])
        for rank, method in enumerate(np.argsort(-scores)):
            counted[method, rank] += 1 / DRAWS
    drawn = drawn_means(means * sizes[:, None], sizes)
    found = rank_shares(drawn, higher_is_better=True)
    assert found == pytest.approx(counted)
    assert rank_shares(drawn, higher_is_better=False) == pytest.approx(counted[:, ::-1])
    assert found.sum(axis=1) == pytest.approx([1, 1, 1])


def test_methods_that_tie_share_the_better_rank():
    drawn = np.array([[0.5, 0.5, 0.1]])
    assert rank_shares(drawn, higher_is_better=True).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]


def test_the_mean_kendall_is_scipy_s():
    generator = np.random.default_rng(0)
    full = np.array([0.1, 0.2, 0.2, 0.4, 0.5])
    drawn = generator.integers(0, 4, size=(200, 5)) / 4
    each = [stats.kendalltau(row, full).statistic for row in drawn]
    assert mean_kendall(drawn, full) == pytest.approx(np.nanmean(each))
    assert np.isnan(mean_kendall(np.full((3, 5), 0.5), full))


def test_last_bits_do_not_break_ties():
    drawn = drawn_means(np.array([[0.1 + 0.2, 0.3]] * 5), np.ones(5))
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert np.isnan(mean_kendall(drawn, np.array([0.1 + 0.2, 0.3])))
    assert 10.0**-DECIMALS < 1e-9
