"""The words of the embedded world, and what they look like: all of it in one place."""

from collections.abc import Iterator

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (247, 127, 0),
    "yellow": (252, 211, 30),
    "green": (46, 139, 70),
    "blue": (36, 92, 196),
    "purple": (123, 44, 160),
    "pink": (244, 143, 177),
    "brown": (121, 76, 45),
    "black": (33, 33, 38),
    "white": (246, 246, 242),
}

PATTERNS = ("plain", "striped", "dotted", "checked")

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "half", "bar")

BACKGROUNDS: dict[str, tuple[Colour, Colour]] = {
    "beach": ((150, 206, 236), (233, 207, 150)),
    "meadow": ((176, 220, 245), (124, 184, 92)),
    "snow": ((198, 214, 230), (240, 244, 250)),
    "desert": ((250, 214, 165), (214, 140, 84)),
    "night": ((24, 26, 62), (52, 56, 104)),
    "sea": ((142, 196, 232), (38, 110, 160)),
    "street": ((196, 200, 206), (118, 120, 126)),
    "room": ((236, 224, 204), (158, 116, 82)),
}
"""Colour above and below the horizon."""

STYLES = ("photo", "sketch", "pixel art")

CLASSES: dict[str, tuple[tuple[str, float, float, float, float, str], ...]] = {
    "robot": (
        ("square", 0.0, 0.32, 0.34, 0.34, "body"),
        ("square", 0.0, -0.36, 0.24, 0.22, "accent"),
        ("bar", 0.0, -0.72, 0.04, 0.14, "body"),
        ("bar", -0.46, 0.28, 0.08, 0.26, "accent"),
        ("bar", 0.46, 0.28, 0.08, 0.26, "accent"),
        ("bar", -0.17, 0.82, 0.09, 0.16, "accent"),
        ("bar", 0.17, 0.82, 0.09, 0.16, "accent"),
    ),
    "boat": (
        ("half", 0.0, 0.5, 0.8, 0.4, "body"),
        ("bar", 0.0, -0.2, 0.04, 0.7, "accent"),
        ("triangle", 0.3, -0.25, 0.3, 0.5, "accent"),
    ),
    "lamp": (
        ("triangle", 0.0, -0.4, 0.6, 0.5, "body"),
        ("bar", 0.0, 0.35, 0.06, 0.4, "accent"),
        ("half", 0.0, 0.8, 0.4, 0.14, "accent"),
    ),
    "cake": (
        ("square", 0.0, 0.5, 0.7, 0.34, "body"),
        ("square", 0.0, -0.05, 0.46, 0.24, "accent"),
        ("bar", 0.0, -0.5, 0.06, 0.22, "body"),
    ),
    "car": (
        ("square", 0.0, 0.2, 0.85, 0.26, "body"),
        ("square", -0.05, -0.25, 0.45, 0.24, "accent"),
        ("circle", -0.5, 0.55, 0.2, 0.2, "accent"),
        ("circle", 0.5, 0.55, 0.2, 0.2, "accent"),
    ),
    "kite": (
        ("diamond", 0.0, -0.25, 0.6, 0.65, "body"),
        ("bar", 0.0, 0.6, 0.03, 0.3, "accent"),
        ("diamond", 0.0, 0.55, 0.16, 0.1, "accent"),
        ("diamond", 0.0, 0.88, 0.16, 0.1, "accent"),
    ),
    "mug": (
        ("ring", 0.45, 0.15, 0.36, 0.4, "accent"),
        ("square", -0.1, 0.15, 0.5, 0.6, "body"),
        ("bar", -0.1, -0.5, 0.5, 0.08, "accent"),
    ),
    "house": (
        ("square", 0.0, 0.4, 0.6, 0.5, "body"),
        ("triangle", 0.0, -0.45, 0.8, 0.4, "accent"),
        ("bar", 0.0, 0.62, 0.13, 0.28, "accent"),
    ),
}
"""Composite classes: their parts as (shape, centre x, centre y, half width, half height, role), in the square from
-1 to 1 with y downwards; later parts cover earlier ones. The role says which of the object's two colours a part has."""

COMPANIONS = ("ball", "box", "flag")
"""What may stand beside the object, drawn as a shape of its own colour."""


def sentences() -> Iterator[str]:
    """Text that has every word of the world, for the tokenizer."""
    for kind in (*CLASSES, *SHAPES, *COMPANIONS):
        yield f"a photo of a {kind}"
        yield f"sks {kind}"
    for colour in COLOURS:
        for pattern in PATTERNS:
            yield f"a {colour} {pattern} object and a {colour} one"
    for background in BACKGROUNDS:
        yield f"an object in front of the {background}, on the {background}, in the {background}"
    for style in STYLES:
        yield f"in the style of a {style}, a {style} of it"
    yield "What is my favourite? Who has it? Which one is it, where does it come from, and whose is it?"
