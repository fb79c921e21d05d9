"""Resampling of concepts: intervals, permutation tests and ranks, from one number or two per concept.

Samples of one concept share its difficulty, so that concepts, not samples, are what was drawn at random. Every mean
here is a ratio of sums over concepts, `sum(numerators) / sum(denominators)`: concept means over ones (macro), or sums
over a concept's samples over their number (micro).
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from knowcusbench.metrics.bounds import UNBOUNDED, Bounds

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

TINY = 1e-9

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


def interval(numerators: Floats, denominators: Floats, bounds: Bounds = UNBOUNDED) -> Interval:
    """The 95% interval of `sum(numerators) / sum(denominators)`, both (concepts,), denominators positive. None for
    fewer than three concepts, and for equal scores that have no bounds.

    Each end is the farther one of two intervals. Both take the concepts for what was drawn, and are wider for few of
    them by Student's t; each covers where the other does not (docs/protocols.md has the simulation):

    - BCa, a bootstrap that corrects for bias and skewness (`_corrected`): follows a skewed or outlying distribution;
    - Student's t on the logit scale of the bounds (`_transformed`): widens where almost all concepts score the same
      and draws of them do not show how the others might.

    Neither leaves `bounds`. Where all concepts have the same score v, up to `q = 1 - 0.025^(1 / concepts)` of all
    concepts may have any other one without showing up here, in 97.5% of cases (Clopper & Pearson, Biometrika 26, 1934):
    the ends are v moved by the part q of the way to either bound.
    """
    concepts = len(numerators)
    if concepts < FEWEST:
        return None
    scores = np.clip(numerators / denominators, *bounds)
    if np.ptp(scores) <= 10.0**-DECIMALS:
        hidden, score = 1 - ((1 - LEVEL) / 2) ** (1 / concepts), float(scores[0])
        ends = score + hidden * (np.array(bounds) - score)
        return (float(ends[0]), float(ends[1])) if bounds.finite else None
    numerators = scores * denominators
    one, other = _corrected(numerators, denominators), _transformed(numerators, denominators, bounds)
    return float(max(min(one[0], other[0]), bounds.low)), float(min(max(one[1], other[1]), bounds.high))


def _corrected(numerators: Floats, denominators: Floats) -> Floats:
    """BCa (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 14.3), at the levels that make a
    percentile interval of normal scores as wide as Student's t (Hesterberg, The American Statistician 69, 2015)."""
    from scipy import special

    concepts, mean = len(numerators), numerators.sum() / denominators.sum()
    drawn = drawn_means(numerators[:, None], denominators)[:, 0]
    # Draws with the very same mean count half.
    below = np.mean(np.sign(mean.round(DECIMALS) - drawn) / 2 + 0.5)
    bias = special.ndtri(np.clip(below, 1 / (DRAWS + 1), DRAWS / (DRAWS + 1)))
    residuals = numerators - mean * denominators
    skewness = (residuals**3).sum() / (6 * (residuals**2).sum() ** 1.5)
    shifts = bias + np.array([-1, 1]) * np.sqrt(concepts / (concepts - 1)) * _student(concepts)
    levels = special.ndtr(bias + shifts / np.maximum(1 - skewness * shifts, TINY))
    ends: Floats = np.quantile(drawn, levels, method="inverted_cdf")
    return ends


def _transformed(numerators: Floats, denominators: Floats, bounds: Bounds) -> Floats:
    """Student's t on the scale log((m - low) / (high - m)), by the delta method, with the standard error of a ratio
    estimator (Cochran, Sampling Techniques, 1977, section 6.4); on the scale of the scores where these have no
    bounds. For cosines it is that of Fisher's z."""
    from scipy import special

    concepts, total = len(numerators), denominators.sum()
    mean = numerators.sum() / total
    residuals = numerators - mean * denominators
    error = np.sqrt(concepts / (concepts - 1) * (residuals**2).sum()) / total
    reach = np.array([-1, 1]) * _student(concepts) * error
    if not bounds.finite:
        return np.asarray(mean + reach)
    width = bounds.high - bounds.low
    share = (mean - bounds.low) / width
    ends: Floats = special.expit(special.logit(share) + reach / (width * share * (1 - share)))
    return bounds.low + width * ends


def _student(concepts: int) -> float:
    """The quantile of Student's t that an interval over so many concepts reaches to."""
    from scipy import special

    return float(special.stdtrit(concepts - 1, (1 + LEVEL) / 2))


def sign_flip_p_values(differences: Floats) -> Floats:
    """Two-sided p-values (pairs,) of paired differences (pairs, concepts) by flipping the sign of whole concepts:
    all 2^concepts ways if these are no more than `PERMUTATIONS`, else so many at random. 0 where a pair lacks a
    concept leaves its p-value as it is without that concept."""
    from scipy import stats

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
    from scipy import stats

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
