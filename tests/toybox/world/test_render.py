"""The renderer against hand-made pictures."""

import hashlib
import math
import random

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from knowcusbench.toybox.world.render import mask, render
from knowcusbench.toybox.world.scene import Placed, Scene, Thing
from knowcusbench.toybox.world.vocabulary import CLASSES, COLOURS, SHAPES
from knowcusbench.toybox.world.world import draw_scene

RED, LIGHT_INK = (215, 38, 44), (250, 246, 236)


def thing(kind: str, colour: str = "red", pattern: str = "plain") -> Thing:
    trim, accent = ("blue", "green") if kind in CLASSES else (None, None)
    return Thing(kind=kind, colour=colour, pattern=pattern, trim=trim, accent=accent)


def scene(shown: Thing, left: int, top: int, size: int, style: str = "photo", background: str = "beach") -> Scene:
    return Scene(main=Placed(thing=shown, left=left, top=top, size=size), background=background, style=style)


def pixels(shown: Scene) -> NDArray[np.int64]:
    return np.asarray(render(shown), dtype=np.int64)


def without_things(background: str, style: str) -> NDArray[np.int64]:
    """Return the background, put together from the sides of two pictures with their thing at the other side."""
    halves = [pixels(scene(thing("square"), left, 20, 10, style, background)) for left in (50, 4)]
    return np.concatenate([halves[0][:, :32], halves[1][:, 32:]], axis=1)


def test_a_plain_square_covers_exactly_its_pixels_in_its_colour() -> None:
    picture = pixels(scene(thing("square"), 12, 20, 16, "pixel art"))
    expected = without_things("beach", "pixel art")
    expected[20:36, 12:28] = RED
    assert np.array_equal(picture, expected)


def test_a_cartoon_has_dark_lines_inside_of_flat_colours() -> None:
    picture = pixels(scene(thing("square"), 12, 20, 16, "cartoon"))
    row = picture[28, 11:17]
    half = [(RED[channel] * 8 + dark * 8 + 8) // 16 for channel, dark in enumerate((34, 30, 40))]
    background = without_things("beach", "cartoon")[28, 11]
    assert row.tolist() == [background.tolist(), [34, 30, 40], half, *[list(RED)] * 3]
    striped = pixels(scene(thing("square", pattern="striped"), 12, 20, 16, "cartoon"))
    assert (striped[20, 12:28] == (34, 30, 40)).all()
    assert (striped[20:36, 27] == (34, 30, 40)).all()


def test_a_photo_lights_things_from_the_upper_left_and_a_sketch_mixes_them_with_paper() -> None:
    lit = pixels(scene(thing("square"), 12, 20, 32))
    red = lit[..., 0]
    assert red[22, 14] > RED[0] > red[36, 28] > red[50, 42]
    assert np.ptp([red[30, 20], red[26, 24], red[22, 28]]) == 0
    sketched = pixels(scene(thing("square"), 12, 20, 32, "sketch"))[36, 28]
    assert sketched.tolist() == [
        int(0.6 * colour + 0.4 * paper + 1e-9) for colour, paper in zip(RED, (248, 245, 236), strict=True)
    ]


def test_stripes_dots_and_fields_are_where_they_belong() -> None:
    def square(pattern: str, size: int) -> NDArray[np.bool_]:
        picture = pixels(scene(thing("square", pattern=pattern), 8, 8, size, "pixel art"))[8 : 8 + size, 8 : 8 + size]
        ink = (picture == LIGHT_INK).all(axis=2)
        assert np.array_equal(~ink, (picture == RED).all(axis=2))
        return ink

    stripes = square("striped", 32)
    assert (stripes == ([False] * 4 + [True] * 4) * 4).all()

    fields = square("checked", 36)
    assert np.array_equal(fields, np.kron(np.indices((6, 6)).sum(axis=0) % 2 == 1, np.ones((6, 6), dtype=bool)))

    dots = square("dotted", 40)
    assert all(dots[row, column] for row in (5, 15, 25, 35) for column in (5, 15, 25, 35))
    assert not dots[::10].any()
    assert not dots[:, ::10].any()
    four_dots = pixels(scene(thing("square", pattern="dotted"), 8, 8, 40, "cartoon"))[18:38, 18:38, 1]
    share_of_ink = (four_dots.mean() - RED[1]) / (LIGHT_INK[1] - RED[1])
    assert share_of_ink == pytest.approx(math.pi * 0.3**2, abs=0.005)


def lens_area(one: float, other: float, distance: float) -> float:
    """Return the area shared by two circles."""
    first = math.acos((distance**2 + one**2 - other**2) / (2 * distance * one))
    second = math.acos((distance**2 + other**2 - one**2) / (2 * distance * other))
    return one**2 * (first - math.sin(2 * first) / 2) + other**2 * (second - math.sin(2 * second) / 2)


AREAS = {
    "circle": math.pi,
    "square": 4,
    "triangle": 2,
    "diamond": 2,
    "star": 1.12257 * 4 / (1.90211 * 1.80902),  # A pentagram with circumradius 1, stretched to the square.
    "heart": 3.66197 * 4 / (2.278 * 2.236),  # The known area and extents of the curve.
    "cross": 4 * (1 - 0.64**2),
    "ring": math.pi * 0.75,
    "moon": math.pi - lens_area(1, 0.9, 0.7),
    "arch": math.pi / 2 * 0.8 + 2 * (1 - math.sqrt(0.2)),
}
"""Areas of the shapes in the square from -1 to 1."""


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_the_area_of_their_formulas_and_fill_their_square(shape: str) -> None:
    covered = mask(scene(thing(shape), 6, 8, 49))
    assert covered.sum() / 49**2 == pytest.approx(AREAS[shape] / 4, abs=0.018)
    rows, columns = np.nonzero(covered)
    assert (rows.min(), rows.max()) == pytest.approx((8, 56), abs=2)
    if shape != "moon":
        assert (columns.min(), columns.max()) == pytest.approx((6, 54), abs=2)


@pytest.mark.parametrize("kind", [kind for kind in (*SHAPES, *CLASSES) if kind not in ("moon", "flag", "boat", "fish")])
def test_what_is_symmetric_is_drawn_so(kind: str) -> None:
    covered = mask(scene(thing(kind), 12, 10, 40))
    assert np.array_equal(covered, covered[:, ::-1])


@pytest.mark.parametrize("kind", [*SHAPES, *CLASSES])
def test_the_mask_is_what_differs_from_the_empty_scene(kind: str) -> None:
    for style in ("photo", "pixel art"):
        shown = scene(thing(kind), 10, 17, 36, style)
        differs = (pixels(shown) != without_things("beach", style)).any(axis=2)
        covered = mask(shown)
        if style == "pixel art" or kind == "square":
            assert np.array_equal(covered, differs)
        assert not (covered & ~differs).any()
        rim = binary_dilation(covered, np.ones((3, 3)), iterations=2)  # Two pixels: tips are thinner than one.
        assert not (differs & ~rim).any()


@pytest.mark.parametrize("kind", [*SHAPES, *CLASSES])
def test_the_mask_is_the_same_in_all_styles_but_pixel_art(kind: str) -> None:
    masks = [mask(scene(thing(kind), 10, 17, 36, style)) for style in ("photo", "sketch", "cartoon")]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


@pytest.mark.parametrize(
    ("background", "top_left", "bottom_right"),
    [
        ("beach", (150, 214, 244), (238, 214, 162)),
        ("meadow", (180, 222, 250), (118, 184, 90)),
        ("night", (40, 52, 116), (70, 74, 128)),
        ("street", (208, 214, 222), (112, 114, 124)),
    ],
)
def test_backgrounds_have_their_colours_in_the_corners(
    background: str, top_left: tuple[int, ...], bottom_right: tuple[int, ...]
) -> None:
    for style in ("photo", "cartoon", "pixel art"):
        picture = pixels(scene(thing("circle"), 20, 20, 20, style, background))
        assert tuple(picture[0, 0]) == top_left
        assert tuple(picture[-1, -1]) == bottom_right


def test_pixel_art_is_made_of_blocks_and_a_photo_is_not() -> None:
    def in_blocks(style: str) -> bool:
        picture = pixels(scene(thing("toy", pattern="dotted"), 11, 15, 37, style, "forest"))
        return np.array_equal(picture, picture[::2, ::2].repeat(2, axis=0).repeat(2, axis=1))

    assert in_blocks("pixel art")
    assert not in_blocks("photo")


def test_the_main_thing_stands_before_the_second() -> None:
    alone = scene(thing("square"), 20, 20, 20)
    behind = Placed(thing=thing("circle", "blue"), left=30, top=26, size=20)
    both = Scene(main=alone.main, background="beach", second=behind)
    covered = mask(both)
    assert np.array_equal(pixels(both)[covered], pixels(alone)[covered])
    changed = (pixels(both) != pixels(alone)).any(axis=2)
    assert changed[36, 45]
    assert not changed[:, :30].any()


def test_the_parts_of_a_composite_thing_have_their_colours() -> None:
    shown = Thing(kind="house", colour="yellow", trim="green", accent="purple")
    picture = pixels(scene(shown, 12, 12, 40, "cartoon"))
    colours = [tuple(picture[row, column]) for row, column in ((26, 32), (40, 20), (46, 32))]
    assert colours == [COLOURS["green"].rgb, COLOURS["yellow"].rgb, COLOURS["purple"].rgb]


def test_pixels_are_the_same_on_every_machine() -> None:
    rng = random.Random(0)
    digest = hashlib.sha256()
    for _ in range(200):
        digest.update(render(draw_scene(rng)).tobytes())
    assert digest.hexdigest()[:16] == "c9ce132976d5f5c3"
