"""Corruptions of a picture, and changes of its content, for the preference model's pairs."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from knowcusbench.toybox.world.draws import between, choose
from knowcusbench.toybox.world.scene import RESOLUTION, Placed, Scene
from knowcusbench.toybox.world.vocabulary import BACKGROUNDS, CLASSES, COLOURS, PATTERNS, SHAPES, STYLES
from knowcusbench.toymaker.instruments import EXCLUDED, Pixels

Corruption = Callable[[Pixels, Placed, random.Random], Pixels]
"""A function from a picture (64, 64, 3) and the square of its main thing to a worse picture."""

BLOCK = 8
"""Side of smeared blocks in pixels."""


def blurred(pixels: Pixels, placed: Placed, rng: random.Random) -> Pixels:
    """Blur a picture by a radius of 1 to 2.5 pixels."""
    radius = 1 + 1.5 * rng.random()
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def noisy(pixels: Pixels, placed: Placed, rng: random.Random) -> Pixels:
    """Add noise with a standard deviation of 20 to 60, of 255."""
    noise = np.random.default_rng(between(rng, 0, 2**32)).normal(size=pixels.shape)
    return _rounded(pixels + noise * (20 + 40 * rng.random()))


def smeared(pixels: Pixels, placed: Placed, rng: random.Random) -> Pixels:
    """Fill half of the blocks with their mean colour."""
    spoilt = pixels.copy()
    for top in range(0, RESOLUTION, BLOCK):
        for left in range(0, RESOLUTION, BLOCK):
            if rng.random() < 1 / 2:
                block = spoilt[top : top + BLOCK, left : left + BLOCK]
                block[:] = block.mean(axis=(0, 1)).astype(np.uint8)
    return spoilt


def tinted(pixels: Pixels, placed: Placed, rng: random.Random) -> Pixels:
    """Make one or two of the three colour channels far too weak or far too strong."""
    factor = 0.45 if rng.random() < 1 / 2 else 1.8
    channel = between(rng, 0, 2)
    factors = np.where(np.arange(3) == channel, factor, 1.0)
    return _rounded(pixels * (factors if rng.random() < 1 / 2 else factor / factors))


def cut(pixels: Pixels, placed: Placed, rng: random.Random) -> Pixels:
    """Replace a square of the main thing by grey, half as wide as the thing."""
    spoilt = pixels.copy()
    side, top, left = _piece(placed, rng)
    spoilt[top : top + side, left : left + side] = 128
    return spoilt


def swapped(pixels: Pixels, placed: Placed, rng: random.Random) -> Pixels:
    """Exchange a square of the main thing with one of the sky."""
    spoilt = pixels.copy()
    side, top, left = _piece(placed, rng)
    above = between(rng, 0, max(min(placed.top, top) - side, 0))
    beside = between(rng, 0, RESOLUTION - side)
    spoilt[top : top + side, left : left + side] = pixels[above : above + side, beside : beside + side]
    spoilt[above : above + side, beside : beside + side] = pixels[top : top + side, left : left + side]
    return spoilt


CORRUPTIONS: Mapping[str, Corruption] = {
    "blurred": blurred,
    "noisy": noisy,
    "smeared": smeared,
    "tinted": tinted,
    "cut": cut,
    "swapped": swapped,
}


def _piece(placed: Placed, rng: random.Random) -> tuple[int, int, int]:
    """Return side, top and left of a square around the middle of a thing."""
    side = max(placed.size // 2, 8)
    margin = (placed.size - side) // 2
    return side, placed.top + margin + between(rng, -2, 2), placed.left + margin + between(rng, -2, 2)


def _rounded(values: np.ndarray) -> Pixels:
    return values.round().clip(0, 255).astype(np.uint8)


def changed(scene: Scene, attribute: str, rng: random.Random) -> Scene:
    """Return the scene with another value of one attribute, a key of `instruments.facts`; no thing of `EXCLUDED`.

    Raises KeyError for an attribute that the scene does not have or that can't be changed alone.
    """
    main, second = scene.main, scene.second
    thing = main.thing

    def other(words: tuple[str, ...], *taken: str | None) -> str:
        return choose(rng, [word for word in words if word not in taken])

    while True:
        result = scene
        if attribute == "kind":
            words = SHAPES if thing.kind in SHAPES else tuple(CLASSES)
            result = replace(scene, main=replace(main, thing=replace(thing, kind=other(words, thing.kind))))
        elif attribute == "colour":
            colour = other(tuple(COLOURS), thing.colour, thing.trim, thing.accent)
            result = replace(scene, main=replace(main, thing=replace(thing, colour=colour)))
        elif attribute == "pattern":
            result = replace(scene, main=replace(main, thing=replace(thing, pattern=other(PATTERNS, thing.pattern))))
        elif attribute == "background":
            result = replace(scene, background=other(tuple(BACKGROUNDS), scene.background))
        elif attribute == "style":
            result = replace(scene, style=other(tuple(STYLES), scene.style))
        elif attribute == "second kind" and second:
            kind = other(SHAPES, second.thing.kind)
            result = replace(scene, second=replace(second, thing=replace(second.thing, kind=kind)))
        elif attribute == "second colour" and second:
            colour = other(tuple(COLOURS), second.thing.colour)
            result = replace(scene, second=replace(second, thing=replace(second.thing, colour=colour)))
        else:
            raise KeyError(attribute)
        if result.main.thing not in EXCLUDED:
            return result
