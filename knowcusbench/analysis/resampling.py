"""Resampling of concepts: intervals, permutation tests and ranks, from one number or two per concept.

Samples of one concept share its difficulty, so concepts, not samples, are the units drawn at random. Every mean here is
a ratio of sums over concepts, `sum(numerators) / sum(denominators)`: concept means over ones (macro), or sums over a
concept's samples over their number (micro).
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from knowcusbench.metrics.bounds import UNBOUNDED, Bounds

Floats = NDArray[np.float64]
Interval = tuple[float, float] | None

LEVEL = 0.95
"""Confidence level of all intervals."""

FEWEST = 3
"""Fewest concepts with an interval."""

DRAWS = 4999
PERMUTATIONS = 9999
"""Number of random sign flips. If fewer exist (up to 13 concepts), all of them are used."""

SEED = 0

TINY = 1e-9

DECIMALS = 12
"""Numbers that are equal to this many digits tie: a mean's last bits depend on the order of its sum."""


@lru_cache(maxsize=8)
def concept_draws(concepts: int) -> Floats:
    """Return the bootstrap draws (draws, concepts): how often each draw with replacement has each concept.

    There are `DRAWS` draws, always the same for a number of concepts. The array is read-only.

    >>> concept_draws(3).shape
    (4999, 3)
    >>> set(concept_draws(3).sum(axis=1).tolist())
    {3.0}
    """
    generator = np.random.default_rng(SEED)
    draws = generator.multinomial(concepts, np.full(concepts, 1 / concepts), size=DRAWS).astype(np.float64)
    draws.flags.writeable = False
    return draws


def interval(numerators: Floats, denominators: Floats, bounds: Bounds = UNBOUNDED) -> Interval:
    """Return the 95% interval of `sum(numerators) / sum(denominators)`, both (concepts,), denominators positive.

    None for fewer than three concepts, and for equal scores without bounds.

    Each end is the farther one of two intervals. Both treat concepts as the random units and use Student's t, which
    widens them for few concepts. Each covers where the other does not (docs/protocols.md has the simulation):

    - BCa, a bootstrap that corrects for bias and skewness (`_corrected`): follows a skewed distribution, or one with
      outliers;
    - Student's t on the logit scale of the bounds (`_transformed`): widens where almost all concepts score the same, so
      that draws of them do not show how the others might.

    Neither leaves `bounds`. Where all concepts have the same score v, a share of up to `q = 1 - 0.025^(1 / concepts)`
    of all concepts may have any other score and still, in 97.5% of cases, be absent from this sample (Clopper &
    Pearson, Biometrika 26, 1934). The ends are therefore v moved by the part q of the way to either bound.

    >>> low, high = interval(np.array([0.2, 0.4, 0.6, 0.8]), np.ones(4), Bounds(0.0, 1.0))
    >>> round(low, 2), round(high, 2)
    (0.16, 0.84)
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
    """Return the ends of BCa (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 14.3).

    Its levels are those at which a percentile interval of normal scores is as wide as Student's t (Hesterberg, The
    American Statistician 69, 2015).
    """
    from scipy import special

    concepts, mean = len(numerators), numerators.sum() / denominators.sum()
    drawn = drawn_means(numerators[:, None], denominators)[:, 0]
    # Draws with exactly the same mean count half.
    below = np.mean(np.sign(mean.round(DECIMALS) - drawn) / 2 + 0.5)
    bias = special.ndtri(np.clip(below, 1 / (DRAWS + 1), DRAWS / (DRAWS + 1)))
    residuals = numerators - mean * denominators
    skewness = (residuals**3).sum() / (6 * (residuals**2).sum() ** 1.5)
    shifts = bias + np.array([-1, 1]) * np.sqrt(concepts / (concepts - 1)) * _student(concepts)
    levels = special.ndtr(bias + shifts / np.maximum(1 - skewness * shifts, TINY))
    ends: Floats = np.quantile(drawn, levels, method="inverted_cdf")
    return ends


def _transformed(numerators: Floats, denominators: Floats, bounds: Bounds) -> Floats:
    """Return the ends of Student's t on the scale log((m - low) / (high - m)), by the delta method.

    The standard error is that of a ratio estimator (Cochran, Sampling Techniques, 1977, section 6.4). Scores without
    bounds keep their own scale. For cosines the scale is that of Fisher's z.
    """
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
    """Return the quantile of Student's t for an interval over `concepts` concepts."""
    from scipy import special

    return float(special.stdtrit(concepts - 1, (1 + LEVEL) / 2))


def sign_flip_p_values(differences: Floats) -> Floats:
    """Return two-sided p-values (pairs,) of paired differences (pairs, concepts) by flipping the sign of whole
    concepts.

    All 2^concepts flips are tried if there are at most `PERMUTATIONS`, else `PERMUTATIONS` random ones. A 0 for a
    concept that a pair lacks does not change the pair's p-value.

    >>> sign_flip_p_values(np.array([[0.1, 0.2, 0.1, 0.3]]))
    array([0.125])
    """
    from scipy import stats

    if differences.shape[1] == 1:
        # The sum of one difference has the same size either way.
        return np.ones(len(differences))
    # Batched: the flipped differences of many pairs must fit into memory.
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
    """Correct p-values (tests,) for their number, keeping their order (Holm, Scandinavian Journal of Statistics 6,
    1979).

    The k-th smallest of m is multiplied by m - k + 1, made monotone, and is at most 1.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(2)
    array([0.03, 0.06, 0.06])
    """
    order = np.argsort(p_values)
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return corrected


def drawn_means(numerators: Floats, denominators: Floats) -> Floats:
    """Return the mean of every method in every bootstrap draw, (draws, methods).

    All methods share the denominators (concepts,), and see the same concepts in a draw. Numerators are (concepts,
    methods).

    >>> drawn_means(np.array([[0.2, 0.5], [0.4, 0.6], [0.6, 0.7]]), np.ones(3)).shape
    (4999, 2)
    """
    draws = concept_draws(len(numerators))
    means: Floats = (draws @ numerators) / (draws @ denominators)[:, None]
    return means.round(DECIMALS)


def rank_shares(drawn: Floats, *, higher_is_better: bool) -> Floats:
    """Return the share of the draws in which each method (row) has each rank (column, from the best): (methods,
    methods).

    `drawn` is (draws, methods). Methods that tie share the better rank.

    >>> rank_shares(np.array([[0.9, 0.5], [0.8, 0.6], [0.4, 0.7], [0.9, 0.1]]), higher_is_better=True)
    array([[0.75, 0.25],
           [0.25, 0.75]])
    """
    from scipy import stats

    ranks = stats.rankdata(-drawn if higher_is_better else drawn, method="min", axis=1)
    places = np.arange(1, drawn.shape[1] + 1)
    return np.asarray((ranks[:, :, None] == places).mean(axis=0), dtype=np.float64)


def mean_kendall(drawn: Floats, means: Floats) -> float:
    """Return the mean Kendall tau-b, from -1 to 1, between the ranking by `means` and the ranking of each draw.

    `means` is (methods,), `drawn` (draws, methods). The mean is over the draws for which tau-b is defined; NaN if there
    are none.

    >>> mean_kendall(np.array([[0.9, 0.5], [0.8, 0.6], [0.4, 0.7], [0.9, 0.1]]), np.array([0.8, 0.5]))
    0.5
    """
    one, other = np.triu_indices(drawn.shape[1], k=1)
    signs = np.sign(drawn[:, one] - drawn[:, other])
    full = np.sign((means[one] - means[other]).round(DECIMALS))
    norms = np.sqrt((signs != 0).sum(axis=1) * (full != 0).sum())
    defined = norms > 0
    return float(((signs @ full)[defined] / norms[defined]).mean()) if defined.any() else math.nan
