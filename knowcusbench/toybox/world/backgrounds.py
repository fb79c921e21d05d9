"""The backgrounds of the embedded world: layers of flat colour, each over the earlier ones."""

from collections.abc import Callable, Mapping

import numpy as np

from knowcusbench.toybox.world.shapes import Points, Region
from knowcusbench.toybox.world.vocabulary import RGB

Layer = tuple[RGB, Callable[[Points, Points], Region]]
"""A colour, and a test of the points (x, y) that it covers, from 0 to 1, y downwards."""


def _everywhere(x: Points, y: Points) -> Region:
    return (x >= 0) & (y >= 0)


def _below(height: float) -> Callable[[Points, Points], Region]:
    return lambda x, y: (x >= 0) & (y >= height)


def _disc(centre_x: float, centre_y: float, radius_x: float, radius_y: float) -> Callable[[Points, Points], Region]:
    def test(x: Points, y: Points) -> Region:
        u, v = (x - centre_x) / radius_x, (y - centre_y) / radius_y
        return u * u + v * v <= 1

    return test


def _boxes(*boxes: tuple[float, float, float, float]) -> Callable[[Points, Points], Region]:
    """Return the test of boxes from (x, y) to (x, y)."""

    def test(x: Points, y: Points) -> Region:
        inside = [(x >= left) & (x < right) & (y >= top) & (y < bottom) for left, top, right, bottom in boxes]
        return np.asarray(np.any(inside, axis=0))

    return test


def _fir(centre: float, top: float) -> Callable[[Points, Points], Region]:
    return lambda x, y: (y >= top) & (y < 0.66) & (abs(x - centre) <= (y - top) * 0.35)


BACKGROUND_LAYERS: Mapping[str, tuple[Layer, ...]] = {
    "beach": (
        ((150, 214, 244), _everywhere),
        ((255, 244, 190), _disc(0.82, 0.16, 0.10, 0.10)),
        ((72, 156, 204), _below(0.50)),
        ((238, 214, 162), _below(0.66)),
    ),
    "meadow": (
        ((180, 222, 250), _everywhere),
        ((148, 206, 120), _disc(0.22, 0.78, 0.52, 0.30)),
        ((148, 206, 120), _disc(0.85, 0.78, 0.40, 0.24)),
        ((118, 184, 90), _below(0.66)),
    ),
    "snow": (
        ((166, 186, 214), _everywhere),
        ((206, 218, 236), _disc(0.25, 0.80, 0.50, 0.34)),
        ((206, 218, 236), _disc(0.90, 0.80, 0.40, 0.26)),
        ((232, 238, 248), _below(0.66)),
    ),
    "desert": (
        ((253, 222, 172), _everywhere),
        ((255, 244, 214), _disc(0.20, 0.20, 0.12, 0.12)),
        ((238, 192, 134), _disc(0.75, 0.80, 0.60, 0.26)),
        ((224, 170, 110), _below(0.66)),
    ),
    "forest": (
        ((166, 196, 176), _everywhere),
        ((62, 108, 82), _fir(0.10, 0.02)),
        ((62, 108, 82), _fir(0.90, 0.02)),
        ((84, 132, 98), _fir(0.35, 0.12)),
        ((84, 132, 98), _fir(0.65, 0.12)),
        ((96, 112, 66), _below(0.62)),
    ),
    "night": (
        ((40, 52, 116), _everywhere),
        ((236, 230, 190), _disc(0.82, 0.16, 0.08, 0.08)),
        ((200, 204, 232), _disc(0.14, 0.12, 0.018, 0.018)),
        ((200, 204, 232), _disc(0.34, 0.26, 0.018, 0.018)),
        ((200, 204, 232), _disc(0.55, 0.10, 0.018, 0.018)),
        ((200, 204, 232), _disc(0.12, 0.42, 0.018, 0.018)),
        ((200, 204, 232), _disc(0.90, 0.42, 0.018, 0.018)),
        ((70, 74, 128), _below(0.66)),
    ),
    "street": (
        ((208, 214, 222), _everywhere),
        ((160, 164, 178), _boxes((0.02, 0.20, 0.24, 0.7), (0.30, 0.34, 0.50, 0.7), (0.74, 0.12, 0.98, 0.7))),
        ((184, 188, 200), _boxes((0.50, 0.24, 0.70, 0.7))),
        ((112, 114, 124), _below(0.66)),
        ((226, 222, 200), _boxes((0.04, 0.84, 0.28, 0.88), (0.40, 0.84, 0.64, 0.88), (0.76, 0.84, 1.0, 0.88))),
    ),
    "room": (
        ((238, 224, 206), _everywhere),
        ((250, 246, 238), _boxes((0.08, 0.08, 0.36, 0.42))),
        ((176, 214, 234), _boxes((0.11, 0.11, 0.33, 0.39))),
        ((216, 190, 160), _below(0.62)),
        ((172, 126, 88), _below(0.66)),
    ),
}
