"""The oracle: a small network that reads the attributes of a picture of the embedded world.

The world is procedural, so the truth about a rendered picture is known. The oracle has learned to read it from the
pixels alone, and can therefore judge generated pictures. Its directory has `config.json` (the words) and
`model.safetensors` (fp16).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from knowcusbench.encoders.checkpoint import locate, version
from knowcusbench.storage.versions import SPEED
from knowcusbench.toybox.world.render import render
from knowcusbench.toybox.world.scene import Scene
from knowcusbench.toybox.world.vocabulary import BACKGROUNDS, CLASSES, COLOURS, PATTERNS, SHAPES, SIZES, STYLES
from knowcusbench.toybox.world.world import size_word

if TYPE_CHECKING:
    from knowcusbench.toybox.models.oracle_net import Oracle

NONE = "none"
"""Word for an absent attribute: the trim of a simple shape, a second thing."""

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "kind": (*SHAPES, *CLASSES),
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "trim": (NONE, *COLOURS),
    "accent": (NONE, *COLOURS),
    "background": tuple(BACKGROUNDS),
    "style": tuple(STYLES),
    "size": tuple(SIZES),
    "second_kind": (NONE, *SHAPES, *CLASSES),
    "second_colour": (NONE, *COLOURS),
}
"""Attributes that the oracle reads from a picture, each with its possible words."""

IDENTITY = ("kind", "colour", "pattern", "trim", "accent")
"""Attributes read from a crop of a thing."""

Sight = Mapping[str, str]
"""The content of a picture: a word for each of `ATTRIBUTES`."""


def truth(scene: Scene) -> Sight:
    """Return the true attributes of a scene's picture."""
    thing, second = scene.main.thing, scene.second
    return {
        "kind": thing.kind,
        "colour": thing.colour,
        "pattern": thing.pattern,
        "trim": thing.trim or NONE,
        "accent": thing.accent or NONE,
        "background": scene.background,
        "style": scene.style,
        "size": size_word(scene.main.size),
        "second_kind": second.thing.kind if second else NONE,
        "second_colour": second.thing.colour if second else NONE,
    }


def hidden(scene: Scene) -> frozenset[str]:
    """Return the attributes that do not show in the picture of a scene: with another word it has the same pixels.

    Tiny things have a few: in a cartoon or sketch the outlines leave nothing of a flag's pole, a vase's rim or a cake's
    icing, and the blocks of pixel art fall between the dots.
    """
    thing = scene.main.thing
    others: dict[str, list[str]] = {"pattern": [word for word in PATTERNS if word != thing.pattern]}
    for name, own in (("trim", thing.trim), ("accent", thing.accent)):
        # One other colour is enough: where a part is visible, each of its colours gives other pixels.
        others[name] = [word for word in COLOURS if word != own][:1] if own else []
    pixels = render(scene).tobytes()

    def looks_the_same(change: Mapping[str, str]) -> bool:
        main = replace(scene.main, thing=replace(thing, **change))
        return render(replace(scene, main=main)).tobytes() == pixels

    return frozenset(name for name, words in others.items() if any(looks_the_same({name: word}) for word in words))


@dataclass(frozen=True, kw_only=True)
class OracleSpec:
    """Location and settings of an oracle.

    Attributes:
        source: directory with `config.json` and `model.safetensors`, as written by `save_oracle`.
        device: "auto", "cpu" or "cuda".
        batch_size: pictures per batch.
        version: raised by the author when the same weights read other words from pictures.
    """

    version: ClassVar[int] = 1

    source: str
    device: str = field(default="auto", metadata=SPEED)
    batch_size: int = field(default=64, metadata=SPEED)

    def load(self) -> "Oracle":
        """Return the oracle of this process for this specification.

        Raises WeightsError if it can't be loaded, or was trained in a world with other words.
        """
        return _load(self)

    def weights(self) -> Mapping[str, str]:
        """Return the version of the directory, as in `Metric.weights`."""
        return {self.source: version(locate(self.source, None))}


@cache
def _load(spec: OracleSpec) -> "Oracle":
    # Imported here: a command that scores nothing does not need torch.
    from knowcusbench.toybox.models.oracle_net import Oracle

    return Oracle(spec)
