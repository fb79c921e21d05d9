"""The geometry of the embedded world: shapes, patterns, and the parts of composite classes.

Every shape and pattern is a test of points (u, v) in the square from -1 to 1, v downwards. The tests use only
arithmetic that IEEE 754 rounds the same everywhere (no sines, no powers), so they agree on every machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Region = NDArray[np.bool_]
Test = Callable[[Points, Points], Region]


class Role(IntEnum):
    """The colour role of a point of a thing. The lines are the outlines of the parts with that colour."""

    BODY = 0
    INK = 1
    TRIM = 2
    ACCENT = 3
    BODY_LINE = 4
    TRIM_LINE = 5
    ACCENT_LINE = 6
    DARK = 7


LINE_OF = {
    Role.BODY: Role.BODY_LINE,
    Role.TRIM: Role.TRIM_LINE,
    Role.ACCENT: Role.ACCENT_LINE,
    Role.DARK: Role.DARK,
}


@dataclass(frozen=True)
class Part:
    """A shape in the box with centre (`x`, `y`) and half extents (`width`, `height`), inside the square of a thing.

    `role` is BODY (which also shows the thing's pattern), TRIM, ACCENT or DARK (a fixed dark tone).
    """

    shape: str
    x: float
    y: float
    width: float
    height: float
    role: Role


def _square(u: Points, v: Points) -> Region:
    return (abs(u) <= 1) & (abs(v) <= 1)


def _circle(u: Points, v: Points) -> Region:
    return u * u + v * v <= 1


def _triangle(u: Points, v: Points) -> Region:
    return (v <= 1) & (2 * abs(u) <= v + 1)


def _diamond(u: Points, v: Points) -> Region:
    return abs(u) + abs(v) <= 1


_STAR_TIPS = ((0.0, -1.0), (0.9511, -0.3090), (0.5878, 0.8090), (-0.5878, 0.8090), (-0.9511, -0.3090))


def _star(u: Points, v: Points) -> Region:
    """Test for a five-pointed star.

    Each line between two tips cuts off one tip, and a point of the star is cut off at most once.
    """
    x, y = u * 0.9511, v * 0.9045 - 0.0955
    cut_off = sum((x * tip_x + y * tip_y > 0.3090).astype(np.int8) for tip_x, tip_y in _STAR_TIPS)
    return np.asarray(cut_off <= 1)


def _heart(u: Points, v: Points) -> Region:
    """Test for the curve (x^2 + y^2 - 1)^3 = x^2 y^3, stretched to fill the square."""
    x, y = u * 1.139, 0.118 - v * 1.118
    bulge = x * x + y * y - 1
    return bulge * bulge * bulge - x * x * y * y * y <= 0


def _cross(u: Points, v: Points) -> Region:
    return _square(u, v) & ((abs(u) <= 0.36) | (abs(v) <= 0.36))


def _ring(u: Points, v: Points) -> Region:
    return _circle(u, v) & (u * u + v * v >= 0.25)


def _moon(u: Points, v: Points) -> Region:
    bite = u - 0.7
    return _circle(u, v) & (bite * bite + v * v >= 0.81)


def _arch(u: Points, v: Points) -> Region:
    upper: Points = np.minimum(v, 0)
    distance = u * u + upper * upper
    return (distance <= 1) & (distance >= 0.2) & (v <= 1)


def _hull(u: Points, v: Points) -> Region:
    """Test for a trapezoid that is narrow at the bottom."""
    return (abs(v) <= 1) & (abs(u) <= 0.8 - v * 0.2)


def _cabin(u: Points, v: Points) -> Region:
    """Test for a trapezoid that is narrow at the top."""
    return _hull(u, -v)


def _wedge(u: Points, v: Points) -> Region:
    """Test for a triangle with its base at the left and its tip at the right."""
    return _triangle(v, -u)


SHAPE_TESTS: Mapping[str, Test] = {
    "square": _square,
    "circle": _circle,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
    "arch": _arch,
    "hull": _hull,
    "cabin": _cabin,
    "wedge": _wedge,
}


def _plain(u: Points, v: Points) -> Region:
    return np.zeros(np.broadcast_shapes(u.shape, v.shape), dtype=bool)


def _striped(u: Points, v: Points) -> Region:
    """Test for vertical stripes; a dark and a light one together are half a unit (a quarter of the thing's width)."""
    return np.broadcast_to(np.floor(u * 4) % 2 == 1, np.broadcast_shapes(u.shape, v.shape))


def _dotted(u: Points, v: Points) -> Region:
    """Test for dots on a square lattice, one in every half unit."""
    x, y = (u * 2) % 1 - 0.5, (v * 2) % 1 - 0.5
    return x * x + y * y <= 0.09


def _checked(u: Points, v: Points) -> Region:
    """Test for a chequerboard with fields of a third of a unit."""
    return np.asarray((np.floor(u * 3) + np.floor(v * 3)) % 2 == 1)


PATTERN_TESTS: Mapping[str, Test] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
}
"""Tests for the points of a thing's body that show the ink of its colour."""

_BODY, _TRIM, _ACCENT, _DARK = Role.BODY, Role.TRIM, Role.ACCENT, Role.DARK

COMPOSITE_PARTS: Mapping[str, tuple[Part, ...]] = {
    "toy": (
        Part("circle", -0.45, 0.80, 0.34, 0.20, _ACCENT),
        Part("circle", 0.45, 0.80, 0.34, 0.20, _ACCENT),
        Part("circle", 0.00, 0.30, 0.78, 0.62, _BODY),
        Part("circle", -0.48, -0.74, 0.24, 0.24, _TRIM),
        Part("circle", 0.48, -0.74, 0.24, 0.24, _TRIM),
        Part("circle", 0.00, -0.46, 0.58, 0.46, _TRIM),
        Part("circle", -0.22, -0.50, 0.10, 0.12, _DARK),
        Part("circle", 0.22, -0.50, 0.10, 0.12, _DARK),
    ),
    "flag": (
        Part("square", -0.86, 0.00, 0.12, 1.00, _TRIM),
        Part("square", 0.12, -0.34, 0.88, 0.62, _BODY),
        Part("star", 0.12, -0.34, 0.46, 0.46, _ACCENT),
    ),
    "cake": (
        Part("square", 0.00, -0.74, 0.16, 0.26, _ACCENT),
        Part("square", 0.00, 0.56, 0.98, 0.44, _BODY),
        Part("square", 0.00, -0.14, 0.66, 0.34, _BODY),
        Part("square", 0.00, 0.26, 0.98, 0.15, _TRIM),
        Part("square", 0.00, -0.42, 0.66, 0.15, _TRIM),
    ),
    "vase": (
        Part("star", 0.00, -0.64, 0.52, 0.36, _ACCENT),
        Part("square", 0.00, -0.10, 0.28, 0.40, _BODY),
        Part("circle", 0.00, 0.40, 0.72, 0.54, _BODY),
        Part("square", 0.00, -0.32, 0.44, 0.13, _TRIM),
        Part("square", 0.00, 0.88, 0.48, 0.12, _TRIM),
    ),
    "house": (
        Part("square", 0.00, 0.44, 0.78, 0.56, _BODY),
        Part("triangle", 0.00, -0.50, 1.00, 0.50, _TRIM),
        Part("square", 0.00, 0.62, 0.24, 0.38, _ACCENT),
    ),
    "boat": (
        Part("square", -0.16, -0.30, 0.06, 0.70, _DARK),
        Part("triangle", 0.42, -0.26, 0.52, 0.60, _TRIM),
        Part("wedge", -0.56, -0.72, -0.36, 0.28, _ACCENT),
        Part("hull", 0.00, 0.66, 1.00, 0.34, _BODY),
    ),
    "car": (
        Part("cabin", 0.00, -0.32, 0.66, 0.34, _TRIM),
        Part("square", 0.00, 0.28, 1.00, 0.34, _BODY),
        Part("circle", -0.54, 0.64, 0.30, 0.30, _ACCENT),
        Part("circle", 0.54, 0.64, 0.30, 0.30, _ACCENT),
    ),
    "fish": (
        Part("wedge", -0.70, 0.00, 0.30, 0.56, _TRIM),
        Part("triangle", 0.20, -0.56, 0.56, 0.44, _ACCENT),
        Part("triangle", 0.20, 0.56, 0.56, -0.44, _ACCENT),
        Part("circle", 0.24, 0.00, 0.76, 0.56, _BODY),
        Part("circle", 0.66, -0.12, 0.11, 0.11, _DARK),
    ),
}  # fmt: skip
"""Later parts cover earlier ones. A negative half extent mirrors the shape."""


def parts_of(kind: str) -> tuple[Part, ...]:
    """Return the parts of a composite class, or the one part of a simple shape."""
    return COMPOSITE_PARTS.get(kind) or (Part(kind, 0, 0, 1, 1, Role.BODY),)
