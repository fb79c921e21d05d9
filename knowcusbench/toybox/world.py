"""The renderer of the embedded world: from a description of a scene to pixels, the same on every machine.

Coverage is counted on a grid of 4 x 4 points per pixel with comparisons of simple polynomials: no library draws, so no
library version can move a pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knowcusbench.toybox.vocabulary import BACKGROUNDS, CLASSES, COLOURS

RESOLUTION = 64
SUBSAMPLES = 4
HORIZON = 0.62

Grid = NDArray[np.float64]
Mask = NDArray[np.bool_]

SHAPE_MASKS: dict[str, Callable[[Grid, Grid], Mask]] = {
    "circle": lambda u, v: u * u + v * v <= 1,
    "square": lambda u, v: (abs(u) <= 1) & (abs(v) <= 1),
    "triangle": lambda u, v: (abs(v) <= 1) & (2 * abs(u) <= v + 1),
    "diamond": lambda u, v: abs(u) + abs(v) <= 1,
    "cross": lambda u, v: ((abs(u) <= 0.35) & (abs(v) <= 1)) | ((abs(v) <= 0.35) & (abs(u) <= 1)),
    "ring": lambda u, v: (u * u + v * v <= 1) & (u * u + v * v >= 0.36),
    "half": lambda u, v: (u * u + (v + 1) * (v + 1) / 4 <= 1) & (v >= -1),
    "bar": lambda u, v: (abs(u) <= 1) & (abs(v) <= 1),
}
"""Whether a point of the square from -1 to 1 (v downwards) belongs to the shape."""

PATTERN_MASKS: dict[str, Callable[[Grid, Grid], Mask]] = {
    "plain": lambda u, v: np.zeros(u.shape, dtype=bool),
    "striped": lambda u, v: np.floor((u + v) * 3) % 2 == 1,
    "dotted": lambda u, v: ((u * 3) % 1 - 0.5) ** 2 + ((v * 3) % 1 - 0.5) ** 2 <= 0.07,
    "checked": lambda u, v: (np.floor(u * 2.5) + np.floor(v * 2.5)) % 2 == 1,
}
"""Whether a point of an object's square shows its second colour."""

COMPANION_SHAPES = {"ball": "circle", "box": "square", "flag": "triangle"}


@dataclass(frozen=True)
class Thing:
    """An object: a simple shape or a composite class, with a colour, an accent colour and a pattern (which shows the
    accent colour on the parts that have the main one)."""

    kind: str
    colour: str
    accent: str
    pattern: str = "plain"


@dataclass(frozen=True)
class Scene:
    """A picture: an object at (`x`, `y`), the centre in 0..1, of half width `size` in 0..1 of the picture; perhaps a
    companion at its side; a background; a style."""

    thing: Thing
    background: str
    x: float = 0.5
    y: float = 0.55
    size: float = 0.3
    companion: Thing | None = None
    style: str = "photo"


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of 64 x 64 pixels."""
    x, y = _points()
    above, below = BACKGROUNDS[scene.background]
    canvas = np.where((y < HORIZON)[..., None], np.array(above, float), np.array(below, float))
    if scene.companion:
        _paint(canvas, scene.companion, x, y, *companion_place(scene))
    _paint(canvas, scene.thing, x, y, scene.x, scene.y, scene.size)
    return Image.fromarray(_STYLES[scene.style](_average(canvas)))


def mask(scene: Scene) -> Mask:
    """Which pixels (64, 64) belong to the main object: at least half of their area."""
    x, y = _points()
    inside = np.zeros(x.shape, dtype=bool)
    for part, _ in _parts(scene.thing, x, y, scene.x, scene.y, scene.size):
        inside |= part
    return _average(inside[..., None].astype(float))[..., 0] >= 0.5


def companion_place(scene: Scene) -> tuple[float, float, float]:
    """Centre and half width of the companion: on the ground at the side where there is more room."""
    side = -1 if scene.x > 0.5 else 1
    return min(max(scene.x + side * (scene.size + 0.16), 0.12), 0.88), scene.y + scene.size - 0.12, 0.12


def _points() -> tuple[Grid, Grid]:
    ticks = (np.arange(RESOLUTION * SUBSAMPLES) + 0.5) / (RESOLUTION * SUBSAMPLES)
    x, y = np.meshgrid(ticks, ticks)
    return x, y


def _parts(thing: Thing, x: Grid, y: Grid, cx: float, cy: float, size: float) -> list[tuple[Mask, str]]:
    u, v = (x - cx) / size, (y - cy) / size
    if thing.kind in CLASSES:
        return [
            (SHAPE_MASKS[shape]((u - px) / width, (v - py) / height), role)
            for shape, px, py, width, height, role in CLASSES[thing.kind]
        ]
    return [(SHAPE_MASKS[COMPANION_SHAPES.get(thing.kind, thing.kind)](u, v), "body")]


def _paint(canvas: Grid, thing: Thing, x: Grid, y: Grid, cx: float, cy: float, size: float) -> None:
    second = PATTERN_MASKS[thing.pattern]((x - cx) / size, (y - cy) / size)
    for part, role in _parts(thing, x, y, cx, cy, size):
        main = COLOURS[thing.colour if role == "body" else thing.accent]
        canvas[part] = main
        if role == "body":
            canvas[part & second] = COLOURS[thing.accent]


def _average(canvas: Grid) -> Grid:
    shape = (RESOLUTION, SUBSAMPLES, RESOLUTION, SUBSAMPLES, -1)
    return canvas.reshape(shape).mean(axis=(1, 3))


def _photo(pixels: Grid) -> NDArray[np.uint8]:
    return np.round(pixels).astype(np.uint8)


def _sketch(pixels: Grid) -> NDArray[np.uint8]:
    """Dark lines on paper where neighbouring pixels differ."""
    grey = pixels.mean(axis=2)
    edges = abs(np.diff(grey, axis=0, append=grey[-1:])) + abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    paper = 245 - np.minimum(edges * 3, 215)
    return np.round(np.repeat(paper[..., None], 3, axis=2)).astype(np.uint8)


def _pixel_art(pixels: Grid) -> NDArray[np.uint8]:
    """Blocks of 4 x 4 pixels."""
    blocks = pixels.reshape(RESOLUTION // 4, 4, RESOLUTION // 4, 4, 3).mean(axis=(1, 3))
    return np.round(blocks.repeat(4, axis=0).repeat(4, axis=1)).astype(np.uint8)


_STYLES: dict[str, Callable[[Grid], NDArray[np.uint8]]] = {
    "photo": _photo,
    "sketch": _sketch,
    "pixel art": _pixel_art,
}
