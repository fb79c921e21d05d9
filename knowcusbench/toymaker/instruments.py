"""Training data of the metric encoders: random scenes, and true sentences about them.

Metric encoders are measuring instruments: they have to recognise a new combination of attributes as reliably as an
ordinary one. So their scenes show all combinations with equal probability, also reserved ones (see `world`). Only the
very things of `concepts` are left out: they stay new for the instruments, too.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from knowcusbench.encoders.segmenters.compositing import cut_out
from knowcusbench.toybox.world.concepts import DEVELOPMENT_CONCEPTS, NOVEL_CONCEPTS
from knowcusbench.toybox.world.draws import choose
from knowcusbench.toybox.world.language import describe, with_article
from knowcusbench.toybox.world.render import mask, render
from knowcusbench.toybox.world.scene import RESOLUTION, Scene, Thing
from knowcusbench.toybox.world.vocabulary import BACKGROUNDS, CLASSES, COLOURS, PATTERNS, SHAPES, STYLES
from knowcusbench.toybox.world.world import compose, draw_second, size_word

Pixels = NDArray[np.uint8]
"""Pictures (pictures, 64, 64, 3), values from 0 to 255."""

Facts = frozenset[tuple[str, str]]
"""Attributes with their values, as ("colour", "red") or ("second kind", "star")."""

EXCLUDED = frozenset(concept.thing for concept in (*NOVEL_CONCEPTS, *DEVELOPMENT_CONCEPTS))
"""The things that no scene shows."""

THING_WORDS = {"kind": (*SHAPES, *CLASSES), "colour": tuple(COLOURS), "pattern": PATTERNS}

NOTHING = -100
"""Label that cross-entropy ignores."""

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Said:
    """A sentence and its claims."""

    text: str
    claims: Facts


def draw_any_thing(rng: random.Random) -> Thing:
    """Draw a simple shape (four times in ten) or a composite thing in three different colours, reserved or not."""
    colour, pattern = choose(rng, list(COLOURS)), choose(rng, PATTERNS)
    if rng.random() < 0.4:
        return Thing(kind=choose(rng, SHAPES), colour=colour, pattern=pattern)
    trim = choose(rng, [other for other in COLOURS if other != colour])
    accent = choose(rng, [other for other in COLOURS if other not in (colour, trim)])
    thing = Thing(kind=choose(rng, list(CLASSES)), colour=colour, pattern=pattern, trim=trim, accent=accent)
    return thing if thing not in EXCLUDED else draw_any_thing(rng)


def draw_any_scene(rng: random.Random) -> Scene:
    """Draw a scene for instruments: equal styles, a third with a second thing, half with things of the middle size."""
    second = draw_second(rng) if rng.random() < 1 / 3 else None
    size = "" if rng.random() < 1 / 2 else choose(rng, ["tiny", "huge"])
    return compose(
        rng,
        draw_any_thing(rng),
        background=choose(rng, list(BACKGROUNDS)),
        style=choose(rng, list(STYLES)),
        size=size,
        second=second,
    )


def facts(scene: Scene) -> Facts:
    """Return all facts of a scene."""
    thing = scene.main.thing
    told = {
        "kind": thing.kind,
        "colour": thing.colour,
        "pattern": thing.pattern,
        "trim": thing.trim,
        "accent": thing.accent,
        "size": size_word(scene.main.size),
        "background": scene.background,
        "style": scene.style,
        "second kind": scene.second.thing.kind if scene.second else None,
        "second colour": scene.second.thing.colour if scene.second else None,
    }
    return frozenset((key, value) for key, value in told.items() if value)


def say(scene: Scene, rng: random.Random, *, detail: float, place: bool = True) -> Said:
    """Return a true sentence about a scene, in the forms of captions and prompts.

    Args:
        detail: probability of mentioning each attribute; 1 mentions all.
        place: whether the background may be mentioned.
    """
    thing, second = scene.main.thing, scene.second
    claims: dict[str, str] = {}

    def tell(key: str, value: str, likely: float = detail) -> str:
        if rng.random() >= likely:
            return ""
        claims[key] = value
        return value

    size = size_word(scene.main.size)
    colour = tell("colour", thing.colour)
    pattern = tell("pattern", thing.pattern, detail if thing.pattern != "plain" else detail / 2)
    if detail == 1 and pattern == "plain":
        del claims["pattern"]  # Full descriptions leave the word out.
        pattern = ""
    words = [tell("size", size) if size else "", colour, pattern]
    noun = tell("kind", thing.kind, (1 + detail) / 2) or "thing"
    form = rng.random() if detail < 1 else 1.0
    adjectives = " ".join(filter(None, words))
    if form < 0.2 and adjectives:
        subject = f"{with_article(adjectives)} version of {noun}"
    elif form < 0.4:
        subject = " ".join(filter(None, (adjectives, noun)))
    else:
        subject = with_article(" ".join(filter(None, (adjectives, noun))))
    if thing.trim and thing.accent and "kind" in claims and rng.random() < detail:
        subject += describe(replace(thing, pattern="plain")).removeprefix(with_article(f"{thing.colour} {thing.kind}"))
        claims |= {"trim": thing.trim, "accent": thing.accent}
    if second and rng.random() < detail:
        kind = tell("second kind", second.thing.kind, (1 + detail) / 2) or "thing"
        other = with_article(" ".join(filter(None, (tell("second colour", second.thing.colour), kind))))
        subject = f"{subject} next to {other}" if rng.random() < 1 / 2 else f"{subject} with {other} beside it"
    if place and tell("background", scene.background):
        subject = f"{subject} {BACKGROUNDS[scene.background]}"
    if tell("style", scene.style):
        style = STYLES[scene.style]
        subject = f"{style} of {subject}" if rng.random() < 1 / 2 else f"{subject} in the style of {style}"
    return Said(subject, frozenset(claims.items()))


def picture(scene: Scene, *, cut: bool = False) -> Pixels:
    """Draw a scene (64, 64, 3); `cut` leaves only its main thing on white, as in CLIP-I-Seg."""
    image = render(scene)
    return np.asarray(cut_out(image, mask(scene), WHITE, crop=False) if cut else image)


@dataclass(frozen=True, kw_only=True)
class Patches:
    """The content of the squares of a picture, row by row.

    Attributes:
        words: by attribute of things, the index of its word in `THING_WORDS`, (squares,); `NOTHING` where a thing
            covers less than a third.
        covered: the pixels that the main thing covers, (squares, pixels), 0 or 1.
        frame: offset of the main thing's middle from the square's, down and right, and its size minus 32, (squares, 3),
            in units of 16 pixels.
    """

    words: dict[str, NDArray[np.int64]]
    covered: NDArray[np.float32]
    frame: NDArray[np.float32]


def patches(scene: Scene, side: int) -> Patches:
    """Return the content of the squares of `side` x `side` pixels."""
    across = RESOLUTION // side
    words = {attribute: np.full(across * across, NOTHING) for attribute in THING_WORDS}
    seconds = (replace(scene, main=scene.second),) if scene.second else ()
    for view in (*seconds, scene):
        squares = mask(view).reshape(across, side, across, side).swapaxes(1, 2).reshape(across * across, side * side)
        shown = squares.mean(axis=1) > 1 / 3
        for attribute, known in THING_WORDS.items():
            words[attribute][shown] = known.index(getattr(view.main.thing, attribute))
    rows, columns = np.divmod(np.arange(across * across), across)
    half = scene.main.size / 2
    below = scene.main.top + half - (rows + 0.5) * side
    right = scene.main.left + half - (columns + 0.5) * side
    frame = np.stack([below, right, np.full(across * across, scene.main.size - 32)], axis=1) / 16
    return Patches(words=words, covered=squares.astype(np.float32), frame=frame.astype(np.float32))


def to_tensor(pictures: Sequence[Pixels]) -> Tensor:
    """Convert pictures to (pictures, 3, 64, 64), from 0 to 1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def waves(across: int, width: int) -> Tensor:
    """Return initial position embeddings (across * across, width) of a grid, row by row.

    They are waves over rows and columns, which make neighbours similar.
    """
    frequencies = torch.logspace(0, -2, width // 4, base=2) * math.pi / 2
    angles = torch.arange(across)[:, None] * frequencies
    along = torch.cat([angles.sin(), angles.cos()], dim=1) / 2
    return torch.cat([along.repeat_interleave(across, dim=0), along.repeat(across, 1)], dim=1)
