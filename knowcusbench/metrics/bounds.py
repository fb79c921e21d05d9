"""The range of a metric's scores."""

import math
from typing import NamedTuple

COSINE_DECIMALS = 3
"""Digits after the point of a score on the scale of a cosine."""


class Bounds(NamedTuple):
    """The lowest and the highest score there can be; infinite where there is none."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def finite(self) -> bool:
        """Whether there is a lowest and a highest score."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def of_differences(self) -> "Bounds":
        """The range of the difference of two scores."""
        return Bounds(self.low - self.high, self.high - self.low)

    @property
    def decimals(self) -> int:
        """Digits after the point that a score in this range is shown with: three up to 10, one less from 10 on and from
        each further power of ten; three for a range without an end."""
        largest = max(abs(self.low), abs(self.high))
        orders = math.floor(math.log10(largest)) if 1 < largest < math.inf else 0
        return max(0, COSINE_DECIMALS - orders)


UNBOUNDED = Bounds()
SHARE = Bounds(0, 1)


def cosine_bounds(scale: float, *, clamp: bool = False) -> Bounds:
    """The range of `scale` times a cosine; with `clamp` negative cosines count as zero."""
    low, high = sorted((0.0 if clamp else -scale, scale))
    return Bounds(low, high)
