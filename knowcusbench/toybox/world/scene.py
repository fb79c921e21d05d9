"""The content of a picture of the embedded world, as data."""

from dataclasses import dataclass

RESOLUTION = 64
"""Height and width of a picture in pixels."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object.

    Attributes:
        kind: a simple shape or a composite class.
        colour: colour of its body.
        pattern: pattern on its body.
        trim, accent: the colours of the other parts of a composite thing; None for a simple shape.
    """

    kind: str
    colour: str
    pattern: str = "plain"
    trim: str | None = None
    accent: str | None = None


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A thing and its square in the picture: the first column and row of pixels, and the side in pixels."""

    thing: Thing
    left: int
    top: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture: a thing, perhaps a second one (behind it where they meet), a background and a style."""

    main: Placed
    background: str
    style: str = "photo"
    second: Placed | None = None
