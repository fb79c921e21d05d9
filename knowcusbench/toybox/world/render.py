"""The renderer of the embedded world: from a scene to pixels, the same on every machine.

Pictures are drawn with numpy instead of a drawing library, whose next version may round a line differently. Every pixel
counts the parts at 4 x 4 points; all further steps are integer arithmetic.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knowcusbench.toybox.world.backgrounds import BACKGROUND_LAYERS
from knowcusbench.toybox.world.scene import RESOLUTION, Placed, Scene, Thing
from knowcusbench.toybox.world.shapes import LINE_OF, PATTERN_TESTS, SHAPE_TESTS, Points, Region, Role, parts_of
from knowcusbench.toybox.world.vocabulary import COLOURS, RGB

SUBSAMPLES = 4
"""Points per pixel and direction."""

POINTS = SUBSAMPLES * SUBSAMPLES

DARK: RGB = (34, 30, 40)
PAPER: RGB = (248, 245, 236)
PENCIL: RGB = (92, 92, 98)


@dataclass(frozen=True, kw_only=True)
class Look:
    """The look of a style.

    Attributes:
        line_width: width of outlines, in points; they lie inside the outlined part.
        line: colour of outlines. None stands for a darker tone of each part, and for a background without lines.
        paint, background_paint: percentage of a colour over paper.
        lit: whether light falls on things from the upper left.
        block: side of the single-colour blocks, in pixels.
    """

    line_width: int
    line: RGB | None = None
    paint: int = 100
    background_paint: int = 100
    lit: bool = False
    block: int = 1


LOOKS: Mapping[str, Look] = {
    "photo": Look(line_width=4, lit=True),
    "sketch": Look(line_width=5, line=PENCIL, paint=60, background_paint=25),
    "cartoon": Look(line_width=6, line=DARK),
    "pixel art": Look(line_width=0, block=2),
}

AnyNumber = TypeVar("AnyNumber", np.uint8, np.int64)

Pixels = NDArray[np.int64]
"""Colours from 0 to 255, shape (height, width, 3)."""

Counts = NDArray[np.int64]
"""Number of a pixel's points per role, shape (height, width, roles)."""


def render(scene: Scene) -> Image.Image:
    """Render the scene as an RGB picture."""
    look = LOOKS[scene.style]
    pixels = _background(scene.background, look)
    for placed in filter(None, (scene.second, scene.main)):
        counts = _counts(placed, look)
        colours = counts @ _palette(placed.thing, look)
        if look.lit:
            colours = np.minimum(colours * _light(placed) // 256, 255 * POINTS)
        uncovered = POINTS - counts.sum(axis=2, keepdims=True)
        pixels = (pixels * uncovered + colours + POINTS // 2) // POINTS
    return Image.fromarray(pixels.astype(np.uint8))


def mask(scene: Scene) -> Region:
    """Return the pixels (64, 64) that the main thing covers by at least half of their area."""
    return np.asarray(_counts(scene.main, LOOKS[scene.style]).sum(axis=2) * 2 >= POINTS)


def _counts(placed: Placed, look: Look) -> Counts:
    """Return the counts of a thing for every pixel of the picture."""
    counts = np.zeros((RESOLUTION, RESOLUTION, len(Role)), dtype=np.int64)
    thing, left, top, size = placed.thing, placed.left, placed.top, placed.size
    counts[top : top + size, left : left + size] = _stamp(thing.kind, thing.pattern, size, look.line_width)
    return counts if look.block == 1 else _blocks(counts, look.block)


def _blocks(counts: Counts, block: int) -> Counts:
    """Reduce every block to its most frequent role."""
    shown = _sums(counts, block)
    uncovered = POINTS * block * block - shown.sum(axis=2, keepdims=True)
    winner = np.concatenate([shown, uncovered], axis=2).argmax(axis=2)
    chosen = np.eye(len(Role) + 1, len(Role), dtype=np.int64)[winner] * POINTS
    return np.asarray(chosen.repeat(block, axis=0).repeat(block, axis=1))


@lru_cache(maxsize=8192)  # All kinds, patterns, sizes and line widths: some 70 MB.
def _stamp(kind: str, pattern: str, size: int, line_width: int) -> NDArray[np.uint8]:
    """Return `Counts` of a thing's square, shape (size, size, roles). They do not depend on colours."""
    along = _points(size) * 2 - 1
    u, v = along[None, :], along[:, None]
    ink = PATTERN_TESTS[pattern](u, v)
    roles = np.full((along.size, along.size), -1, dtype=np.int8)
    for part in parts_of(kind):
        inside = SHAPE_TESTS[part.shape]((u - part.x) / part.width, (v - part.y) / part.height)
        interior = _erode(np.pad(inside, line_width), line_width)
        roles[inside] = LINE_OF[part.role]
        roles[interior] = part.role
        if part.role is Role.BODY:
            roles[interior & ink] = Role.INK
    return _sums((roles[:, :, None] == np.arange(len(Role))).astype(np.uint8), SUBSAMPLES)


def _sums(values: NDArray[AnyNumber], side: int) -> NDArray[AnyNumber]:
    """Return the sums over squares of `side` x `side` neighbours, for each of the values in the last axis."""
    height, width, depth = values.shape
    squares = values.reshape(height // side, side, width // side, side, depth)
    return np.asarray(squares.sum(axis=(1, 3), dtype=values.dtype))


def _points(size: int) -> Points:
    """Return the positions of the points of `size` pixels along one direction, from 0 to 1."""
    return (np.arange(size * SUBSAMPLES, dtype=np.float64) + 0.5) / (size * SUBSAMPLES)


def _erode(padded: Region, width: int) -> Region:
    """Return the points whose neighbours `width` points above, below, left and right belong to the region, too.

    `padded` has a margin of `width` points around the result.
    """
    if width == 0:
        return padded
    rows, columns = slice(width, padded.shape[0] - width), slice(width, padded.shape[1] - width)
    above, below = padded[: -2 * width, columns], padded[2 * width :, columns]
    left, right = padded[rows, : -2 * width], padded[rows, 2 * width :]
    return np.asarray(padded[rows, columns] & above & below & left & right)


@lru_cache(maxsize=4096)
def _palette(thing: Thing, look: Look) -> Pixels:
    """Return the colours of a thing's roles, shape (roles, 3)."""
    body = COLOURS[thing.colour]
    trim, accent = (COLOURS[colour or thing.colour].rgb for colour in (thing.trim, thing.accent))
    fills = {Role.BODY: body.rgb, Role.INK: body.ink, Role.TRIM: trim, Role.ACCENT: accent, Role.DARK: DARK}
    lines = {LINE_OF[role]: look.line or _mix(rgb, DARK, 60) for role, rgb in fills.items() if role in LINE_OF}
    painted = {role: _mix(rgb, PAPER, look.paint) for role, rgb in fills.items()}
    return np.array([(lines | painted)[role] for role in Role], dtype=np.int64)


def _mix(one: RGB, other: RGB, percent: int) -> RGB:
    """Mix `percent` of one colour with the rest of another."""
    red, green, blue = ((a * percent + b * (100 - percent)) // 100 for a, b in zip(one, other, strict=True))
    return red, green, blue


def _light(placed: Placed) -> Pixels:
    """Return the light on the square of a thing, in 256ths, shape (64, 64, 1): from 110% at the upper left to 80%."""
    rows, columns = np.ogrid[:RESOLUTION, :RESOLUTION]
    distance = rows - placed.top + columns - placed.left
    return (282 - 77 * distance // (2 * placed.size))[..., None]


@cache
def _background(name: str, look: Look) -> Pixels:
    """Render a background without things."""
    along = _points(RESOLUTION)
    canvas = np.zeros((along.size, along.size, 3), dtype=np.int64)
    for rgb, test in BACKGROUND_LAYERS[name]:
        inside = test(along[None, :], along[:, None])
        canvas[inside] = _mix(rgb, PAPER, look.background_paint)
        if look.line:
            canvas[inside & ~_erode(np.pad(inside, look.line_width, mode="edge"), look.line_width)] = look.line
    if look.block > 1:
        step = look.block * SUBSAMPLES
        canvas = canvas[step // 2 :: step, step // 2 :: step].repeat(step, axis=0).repeat(step, axis=1)
    return (_sums(canvas, SUBSAMPLES) + POINTS // 2) // POINTS
