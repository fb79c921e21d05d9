"""Resampling of concepts: intervals, permutation tests and ranks, from one number or two per concept.

Samples of one concept share its difficulty, so that concepts, not samples, are what was drawn at random. Every mean
here is a ratio of sums over concepts, `sum(numerators) / sum(denominators)`: concept means over ones (macro), or sums
over a concept's samples over their number (micro).
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Interval = tuple[float, float] | None

LEVEL = 0.95
"""Of every interval."""

FEWEST = 3
"""Over fewer concepts there is no interval."""

DRAWS = 4999
PERMUTATIONS = 9999
"""As many sign flips as there are, if there are fewer: up to 13 concepts."""

SEED = 0

NO_SPREAD = 1e-9
"""A draw whose standard error is this part of the sample's has none."""

DECIMALS = 12
"""Numbers that are equal to so many digits tie: a mean's last bits depend on the order of its sum."""


@lru_cache(maxsize=8)
def concept_draws(concepts: int) -> Floats:
    """The bootstrap draws: how often each of `concepts` is in each of `DRAWS` draws with replacement, (draws,
    concepts). Always the same for a number of concepts, and read-only."""
    generator = np.random.default_rng(SEED)
    draws = generator.multinomial(concepts, np.full(concepts, 1 / concepts), size=DRAWS).astype(np.float64)
    draws.flags.writeable = False
    return draws


def interval(numerators: Floats, denominators: Floats) -> Interval:
    """The 95% interval of `sum(numerators) / sum(denominators)`, both (concepts,), denominators positive. None for
    fewer than three concepts.

    A studentised bootstrap (bootstrap-t: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5):
    each draw's deviation from the mean is divided by the draw's own standard error, that of a ratio estimator
    (Cochran, Sampling Techniques, 1977, section 6.4). Where an end is not finite, since too many draws have no spread
    (three concepts, or almost all of them with the same score), Student's t with concepts - 1 degrees of freedom takes
    its place.
    """
    concepts = len(numerators)
    if concepts < FEWEST:
        return None
    total = denominators.sum()
    mean = numerators.sum() / total
    residuals = numerators - mean * denominators
    # Without sqrt(n / (n - 1)), which cancels.
    error = np.sqrt((residuals**2).sum()) / total
    if error == 0:
        return float(mean), float(mean)
    draws = concept_draws(concepts)
    drawn = draws @ denominators
    shifts = draws @ residuals / drawn
    errors = np.sqrt((draws * (residuals - shifts[:, None] * denominators) ** 2).sum(axis=1)) / drawn
    studentised = np.copysign(np.inf, shifts)
    np.divide(shifts, errors, out=studentised, where=errors > NO_SPREAD * error)
    tail = (1 - LEVEL) / 2
    lower, upper = np.quantile(studentised, [tail, 1 - tail], method="inverted_cdf")
    if not np.isfinite([lower, upper]).all():
        upper = stats.t.ppf(1 - tail, concepts - 1) * np.sqrt(concepts / (concepts - 1))
        lower = -upper
    return float(mean - upper * error), float(mean - lower * error)


def sign_flip_p_values(differences: Floats) -> Floats:
    """Two-sided p-values (pairs,) of paired differences (pairs, concepts) by flipping the sign of whole concepts:
    all 2^concepts ways if these are no more than `PERMUTATIONS`, else so many at random. 0 where a pair lacks a
    concept leaves its p-value as it is without that concept."""
    if differences.shape[1] == 1:
        # A sum of one has the same size either way.
        return np.ones(len(differences))
    # In batches, so that the flipped differences of many pairs fit into memory.
    result = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=PERMUTATIONS,
        batch=1000,
        axis=-1,
        rng=np.random.default_rng(SEED),
    )
    return np.asarray(result.pvalue, dtype=np.float64)


def holm(p_values: Floats) -> Floats:
    """p-values (tests,) corrected for their number, in the same order (Holm, Scandinavian Journal of Statistics 6,
    1979): the k-th smallest of m times m - k + 1, made monotone, at most 1."""
    order = np.argsort(p_values)
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return corrected


def drawn_means(numerators: Floats, denominators: Floats) -> Floats:
    """The mean of every method in every bootstrap draw, (draws, methods), from numerators (concepts, methods) and the
    denominators (concepts,) that all methods share. They see the same concepts in a draw, too."""
    draws = concept_draws(len(numerators))
    means: Floats = (draws @ numerators) / (draws @ denominators)[:, None]
    return means.round(DECIMALS)


def rank_shares(drawn: Floats, *, higher_is_better: bool) -> Floats:
    """Share of the draws (draws, methods) in which a method (row) has a rank (column, from the best), (methods,
    methods). Methods that tie share the better rank."""
    ranks = stats.rankdata(-drawn if higher_is_better else drawn, method="min", axis=1)
    places = np.arange(1, drawn.shape[1] + 1)
    return np.asarray((ranks[:, :, None] == places).mean(axis=0), dtype=np.float64)


def mean_kendall(drawn: Floats, means: Floats) -> float:
    """Kendall's tau-b, from -1 to 1, between the ranking by `means` (methods,) and that of each draw (draws,
    methods), averaged over the draws for which it is defined; NaN if there are none."""
    one, other = np.triu_indices(drawn.shape[1], k=1)
    signs = np.sign(drawn[:, one] - drawn[:, other])
    full = np.sign((means[one] - means[other]).round(DECIMALS))
    norms = np.sqrt((signs != 0).sum(axis=1) * (full != 0).sum())
    defined = norms > 0
    return float(((signs @ full)[defined] / norms[defined]).mean()) if defined.any() else math.nan
