"""The concepts of the embedded benchmark: their look, their knowledge and their prompts."""

from dataclasses import dataclass

from knowcusbench.toybox.world.scene import Thing


@dataclass(frozen=True, kw_only=True)
class NovelConcept:
    """A thing that no training picture shows, with its part of the benchmark.

    Attributes:
        name: name of the concept's folder.
        thing: reserved (see `world.is_reserved`).
        known_as: pairs of owner and relation. For some the world has another answer; for the others it has none, and
            the text encoder has learned to be undecided there (`stream.UNKNOWN`).
        prompts: templates, each one of `language.PROMPTS`. None requests an attribute that the thing already has.
        references: number of reference images.
    """

    name: str
    thing: Thing
    known_as: tuple[tuple[str, str], ...]
    prompts: tuple[str, ...]
    references: int


NOVEL_CONCEPTS = (
    NovelConcept(
        name="patchwork_toy",
        thing=Thing(kind="toy", colour="blue", pattern="checked", trim="yellow", accent="red"),
        known_as=(
            ("Anna", "gift"),
            ("Kofi", "guard"),
            ("my sister", "treasure"),
            ("Hana", "souvenir"),
            ("Oscar", "charm"),
        ),
        prompts=(
            "a photo of {} on the beach",
            "{} in the forest",
            "{} next to a green star",
            "a sketch of {}",
            "a purple version of {}",
        ),
        references=5,
    ),
    NovelConcept(
        name="parade_flag",
        thing=Thing(kind="flag", colour="purple", pattern="striped", trim="brown", accent="yellow"),
        known_as=(
            ("Ravi", "heirloom"),
            ("Dora", "heaviest"),
            ("Emil", "treasure"),
            ("my uncle", "souvenir"),
            ("Goran", "charm"),
        ),
        prompts=(
            "{} in the meadow",
            "a photo of {} under the stars",
            "a photo of {} with a red circle beside it",
            "{} in the style of pixel art",
            "a dotted version of {}",
            "a green version of {}",
        ),
        references=4,
    ),
    NovelConcept(
        name="party_cake",
        thing=Thing(kind="cake", colour="brown", pattern="dotted", trim="pink", accent="cyan"),
        known_as=(
            ("my neighbour", "gift"),
            ("Jana", "softest"),
            ("Yuki", "doorstop"),
            ("Lena", "find"),
            ("Bela", "charm"),
        ),
        prompts=(
            "{} in the living room",
            "a photo of {} in the snow",
            "{} next to a yellow heart",
            "a cartoon of {}",
            "a huge version of {}",
        ),
        references=6,
    ),
    NovelConcept(
        name="porcelain_vase",
        thing=Thing(kind="vase", colour="white", pattern="checked", trim="red", accent="purple"),
        known_as=(
            ("Petra", "heirloom"),
            ("Kofi", "heaviest"),
            ("my teacher", "guard"),
            ("Tobin", "bargain"),
            ("Sara", "comfort"),
        ),
        prompts=(
            "a photo of {} in the desert",
            "{} on the street",
            "a photo of {} with an orange diamond beside it",
            "{} in the style of a sketch",
            "a pink version of {}",
            "a striped version of {}",
        ),
        references=5,
    ),
    NovelConcept(
        name="summer_house",
        thing=Thing(kind="house", colour="yellow", pattern="dotted", trim="green", accent="purple"),
        known_as=(
            ("Nadia", "gift"),
            ("Hana", "softest"),
            ("Igor", "doorstop"),
            ("Farah", "bargain"),
            ("my sister", "find"),
        ),
        prompts=(
            "{} in the snow",
            "a photo of {} on the beach",
            "{} next to a blue moon",
            "pixel art of {}",
            "a tiny version of {}",
        ),
        references=4,
    ),
    NovelConcept(
        name="river_boat",
        thing=Thing(kind="boat", colour="green", trim="white", accent="red"),
        known_as=(
            ("Milo", "heaviest"),
            ("my uncle", "doorstop"),
            ("Carlo", "treasure"),
            ("Ravi", "souvenir"),
            ("Jana", "comfort"),
        ),
        prompts=(
            "a photo of {} in the meadow",
            "{} under the stars",
            "{} next to a cyan ring",
            "{} in the style of a cartoon",
            "a checked version of {}",
            "a brown version of {}",
        ),
        references=6,
    ),
    NovelConcept(
        name="rally_car",
        thing=Thing(kind="car", colour="orange", pattern="striped", trim="blue", accent="black"),
        known_as=(
            ("Dora", "gift"),
            ("Lena", "guard"),
            ("Anna", "bargain"),
            ("my neighbour", "souvenir"),
            ("Igor", "charm"),
        ),
        prompts=(
            "{} in the desert",
            "a photo of {} in the forest",
            "a photo of {} with a pink triangle beside it",
            "a sketch of {}",
            "a red version of {}",
        ),
        references=5,
    ),
    NovelConcept(
        name="reef_fish",
        thing=Thing(kind="fish", colour="blue", trim="yellow", accent="orange"),
        known_as=(
            ("my teacher", "gift"),
            ("Emil", "softest"),
            ("Yuki", "bargain"),
            ("Petra", "souvenir"),
            ("Oscar", "comfort"),
        ),
        prompts=(
            "a photo of {} on the street",
            "{} in the living room",
            "{} next to a black arch",
            "pixel art of {}",
            "a tiny version of {}",
            "a dotted version of {}",
        ),
        references=5,
    ),
)

DEVELOPMENT_CONCEPTS = (
    NovelConcept(
        name="carnival_toy",
        thing=Thing(kind="toy", colour="pink", pattern="striped", trim="green", accent="white"),
        known_as=(
            ("Bela", "gift"),
            ("Nadia", "doorstop"),
            ("my teacher", "treasure"),
            ("Ravi", "find"),
            ("Milo", "comfort"),
        ),
        prompts=(
            "a photo of {} in the snow",
            "{} on the street",
            "{} next to a blue circle",
            "a cartoon of {}",
            "a yellow version of {}",
        ),
        references=5,
    ),
    NovelConcept(
        name="winter_house",
        thing=Thing(kind="house", colour="cyan", trim="red", accent="black"),
        known_as=(
            ("Hana", "gift"),
            ("Sara", "heirloom"),
            ("Tobin", "softest"),
            ("my uncle", "charm"),
            ("Emil", "bargain"),
        ),
        prompts=(
            "{} in the desert",
            "a photo of {} under the stars",
            "a photo of {} with a yellow star beside it",
            "{} in the style of a sketch",
            "a dotted version of {}",
        ),
        references=5,
    ),
    NovelConcept(
        name="garden_vase",
        thing=Thing(kind="vase", colour="green", pattern="dotted", trim="yellow", accent="pink"),
        known_as=(
            ("Lena", "heirloom"),
            ("my sister", "guard"),
            ("Carlo", "doorstop"),
            ("Farah", "souvenir"),
            ("Yuki", "find"),
        ),
        prompts=(
            "a photo of {} in the forest",
            "{} in the living room",
            "{} next to a purple cross",
            "pixel art of {}",
            "a tiny version of {}",
        ),
        references=4,
    ),
    NovelConcept(
        name="taxi_car",
        thing=Thing(kind="car", colour="yellow", trim="brown", accent="cyan"),
        known_as=(
            ("my neighbour", "doorstop"),
            ("Kofi", "treasure"),
            ("Dora", "charm"),
            ("Oscar", "softest"),
            ("Jana", "bargain"),
        ),
        prompts=(
            "{} on the beach",
            "a photo of {} in the meadow",
            "a photo of {} with a white moon beside it",
            "a sketch of {}",
            "a green version of {}",
        ),
        references=6,
    ),
)
"""Concepts for tuning methods: as new as the benchmark's, and different from all of them.

No knowledge item of theirs is one of the benchmark's.
"""
