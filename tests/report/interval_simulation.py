"""Coverage and width of the interval and of other constructions, by simulation with a known truth:

python tests/report/interval_simulation.py [REPEATS]
"""

import sys
from collections.abc import Callable

import numpy as np
from scipy import special, stats

from knowcusbench.analysis.resampling import concept_draws, interval
from knowcusbench.metrics.bounds import SHARE, UNBOUNDED, Bounds, cosine_bounds

CONCEPTS = (6, 8, 20, 35)
SAMPLES = 25
"""Samples of a concept: five knowledge items by five seeds."""

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def with_outliers(generator, shape):
    """Draw cosines about 0.9, and about 0.55 for one concept in ten."""
    usual, odd = generator.normal(0.9, 0.02, shape), generator.normal(0.55, 0.1, shape)
    return np.clip(np.where(generator.random(shape) < 0.1, odd, usual), -1, 1)


def shares(mean: float, alike: float) -> Draw:
    """Return a draw of each concept's share of successful samples.

    Its probability of success comes from a beta distribution: the larger `alike`, the less concepts differ.
    """

    def draw(generator, shape):
        return generator.binomial(SAMPLES, generator.beta(mean * alike, (1 - mean) * alike, shape)) / SAMPLES

    return draw


def share_differences(generator, shape):
    """Draw the differences of two methods on the same concepts; the second reaches 90% of the first's probability."""
    ability = generator.beta(4, 1, shape)
    return (generator.binomial(SAMPLES, ability) - generator.binomial(SAMPLES, 0.9 * ability)) / SAMPLES


CASES: dict[str, tuple[Draw, float, Bounds]] = {
    "normal": (lambda generator, shape: generator.normal(size=shape), 0, UNBOUNDED),
    "exponential": (lambda generator, shape: generator.exponential(size=shape), 1, UNBOUNDED),
    "log-normal": (lambda generator, shape: generator.lognormal(size=shape), np.exp(0.5), UNBOUNDED),
    "cosine 0.865, outliers": (with_outliers, 0.9 * 0.9 + 0.1 * 0.55, cosine_bounds(1)),
    "share 0.02": (shares(0.02, 10), 0.02, SHARE),
    "share 0.05": (shares(0.05, 10), 0.05, SHARE),
    "share 0.5": (shares(0.5, 10), 0.5, SHARE),
    "share 0.95": (shares(0.95, 10), 0.95, SHARE),
    "share 0.95, unlike": (shares(0.95, 1), 0.95, SHARE),
    "difference of shares": (share_differences, 0.1 * 0.8, SHARE.of_differences()),
}
"""Draws of concepts' scores (repeats, concepts), their true mean, and their range."""


def ours(scores, bounds):
    """Return `interval`; infinite where it gives none."""
    ones = np.ones(scores.shape[1])
    return np.transpose([interval(row, ones, bounds) or (-np.inf, np.inf) for row in scores])


def _student(scores):
    return stats.t.ppf(0.975, scores.shape[1] - 1), stats.sem(scores, axis=1)


def student(scores, bounds):
    """Return Student's t."""
    reach, error = _student(scores)
    return scores.mean(1) - reach * error, scores.mean(1) + reach * error


def arcsine(scores, bounds):
    """Return Student's t of arcsin(sqrt(share)); without bounds, of the mean."""
    if not bounds.finite:
        return student(scores, bounds)
    reach, error = _student(scores)
    width = bounds.high - bounds.low
    share = np.clip((scores.mean(1) - bounds.low) / width, 1e-12, 1 - 1e-12)
    reach = reach * error / width / (2 * np.sqrt(share * (1 - share)))
    middle = np.arcsin(np.sqrt(share))
    ends = (np.sin(np.clip(middle + sign * reach, 0, np.pi / 2)) ** 2 for sign in (-1, 1))
    return tuple(bounds.low + width * end for end in ends)


def logit(scores, bounds):
    """Return Student's t of log(share / (1 - share)); without bounds, of the mean."""
    if not bounds.finite:
        return student(scores, bounds)
    reach, error = _student(scores)
    width = bounds.high - bounds.low
    share = np.clip((scores.mean(1) - bounds.low) / width, 1e-12, 1 - 1e-12)
    reach = reach * error / width / (share * (1 - share))
    return tuple(bounds.low + width * special.expit(special.logit(share) + sign * reach) for sign in (-1, 1))


def _drawn(scores):
    return scores @ concept_draws(scores.shape[1]).T / scores.shape[1]


def percentiles(scores, bounds):
    """Return percentiles of bootstrap means."""
    return np.quantile(_drawn(scores), [0.025, 0.975], axis=1)


def bca(scores, bounds):
    """Return the textbook bias-corrected and accelerated bootstrap."""
    drawn, mean = np.sort(_drawn(scores), axis=1), scores.mean(1, keepdims=True)
    bias = special.ndtri(np.clip((np.sign(mean.round(12) - drawn.round(12)) / 2 + 0.5).mean(1), 2e-4, 1 - 2e-4))
    residuals = scores - mean
    spread = np.maximum((residuals**2).sum(1), 1e-100) ** 1.5
    skewness = (residuals**3).sum(1) / (6 * spread)
    ends = []
    for shift in (bias - 1.96, bias + 1.96):
        level = special.ndtr(bias + shift / (1 - skewness * shift))
        place = np.clip(np.floor(level * drawn.shape[1]).astype(int), 0, drawn.shape[1] - 1)
        ends.append(np.take_along_axis(drawn, place[:, None], axis=1)[:, 0])
    return tuple(ends)


def studentised(scores, bounds):
    """Return bootstrap-t; Student's t where too many draws have no spread."""
    draws, count = concept_draws(scores.shape[1]) / scores.shape[1], scores.shape[1]
    drawn, mean, error = scores @ draws.T, scores.mean(1), scores.std(1) / np.sqrt(count)
    own = np.sqrt(np.maximum(scores**2 @ draws.T - drawn**2, 0) / count)
    shifts = drawn - mean[:, None]
    flat = own <= 1e-9 * error[:, None] + 1e-15
    studentised = np.where(flat, np.copysign(np.inf, shifts), shifts / np.where(flat, 1, own))
    low, high = np.quantile(studentised, [0.025, 0.975], axis=1, method="inverted_cdf")
    lost = ~np.isfinite(low) | ~np.isfinite(high)
    reach = stats.t.ppf(0.975, count - 1) * np.sqrt(count / (count - 1))
    return mean - np.where(lost, reach, high) * error, mean - np.where(lost, -reach, low) * error


METHODS = (ours, studentised, bca, percentiles, student, logit, arcsine)


def simulate(case: str, concepts: int, repeats: int, method=ours, seed: int = 0) -> tuple[float, float]:
    """Return the share of intervals that cover the truth, and their median width."""
    draw, truth, bounds = CASES[case]
    scores = draw(np.random.default_rng([seed, concepts, list(CASES).index(case)]), (repeats, concepts))
    low, high = method(scores, bounds)
    return float(((low <= truth) & (truth <= high)).mean()), float(np.median(high - low))


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(f"coverage (median width), {repeats} repeats")
    print(f"{'':24}{'concepts':>8}", *(f"{method.__name__:>15}" for method in METHODS))
    for case in CASES:
        for concepts in CONCEPTS:
            found = (simulate(case, concepts, repeats, method) for method in METHODS)
            shown = (f"{f'{covered:.3f} ({width:.3f})':>15}" for covered, width in found)
            print(f"{case:24}{concepts:>8}", *shown, flush=True)
