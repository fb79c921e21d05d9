"""The range of a metric's scores."""

import math
from typing import NamedTuple


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


UNBOUNDED = Bounds()
SHARE = Bounds(0, 1)


def cosine_bounds(scale: float, *, clamp: bool = False) -> Bounds:
    """The range of `scale` times a cosine; with `clamp` negative cosines count as zero."""
    low, high = sorted((0.0 if clamp else -scale, scale))
    return Bounds(low, high)
