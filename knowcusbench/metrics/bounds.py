"""The range of a metric's scores."""

import math
from typing import NamedTuple

COSINE_DECIMALS = 3
"""Digits after the point of a score on the scale of a cosine."""


class Bounds(NamedTuple):
    """Lowest and highest possible score; infinite where there is none."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def finite(self) -> bool:
        """Whether both the lowest and the highest score are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def of_differences(self) -> "Bounds":
        """Return the range of the difference of two scores.

        >>> Bounds(0, 1).of_differences()
        Bounds(low=-1, high=1)
        """
        return Bounds(self.low - self.high, self.high - self.low)

    @property
    def decimals(self) -> int:
        """Digits after the point for a score in this range.

        Three up to 10, one less from 10 on and from each further power of ten; three for an infinite range.

        >>> Bounds(-1, 1).decimals, Bounds(0, 100).decimals
        (3, 1)
        """
        largest = max(abs(self.low), abs(self.high))
        orders = math.floor(math.log10(largest)) if 1 < largest < math.inf else 0
        return max(0, COSINE_DECIMALS - orders)


UNBOUNDED = Bounds()
SHARE = Bounds(0, 1)


def cosine_bounds(scale: float, *, clamp: bool = False) -> Bounds:
    """Return the range of `scale` times a cosine; with `clamp`, negative cosines count as zero.

    >>> cosine_bounds(2.5, clamp=True)
    Bounds(low=0.0, high=2.5)
    """
    low, high = sorted((0.0 if clamp else -scale, scale))
    return Bounds(low, high)
