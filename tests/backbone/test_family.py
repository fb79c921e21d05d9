"""What a family says of its model."""

from collections.abc import Sequence

import pytest

from knowcusbench.backbone.family import Family, reach_of


@pytest.mark.parametrize(
    ("taps", "layers", "shares"),
    [
        ((6,), 6, [1.0] * 6),
        ((5,), 6, [1.0] * 5 + [0.0]),
        ((1, 3, 5), 6, [1.0, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 0.0]),
        ((9, 18, 27), 36, [1.0] * 9 + [2 / 3] * 9 + [1 / 3] * 9 + [0.0] * 9),
    ],
)
def test_a_layer_moves_the_parts_of_an_embedding_that_are_read_behind_it(
    taps: Sequence[int], layers: int, shares: list[float]
) -> None:
    """`hidden_states[k]` is the output of layer k - 1."""

    class Tapped(Family):
        def taps(self, layer_count: int) -> Sequence[int]:
            return taps

    Tapped.__abstractmethods__ = frozenset()
    assert reach_of(Tapped(), layers) == pytest.approx(shares)  # type: ignore[abstract]
