"""The embedded benchmark: eight drawn concepts in the release layout.

concept_image/<concept>/NN.png     five references each, at other places, sizes and backgrounds
concept_image/dataset.json         class nouns and prompts
knowledge_data/<concept>.json      five knowledge items each
concept_mask/<concept>/NN.png      the object's exact mask (not part of the release layout)
"""

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

from knowcusbench.benchmark.types import KnowledgeAspect, PromptAspect
from knowcusbench.toybox.vocabulary import BACKGROUNDS
from knowcusbench.toybox.world import Scene, Thing, mask, render

REFERENCES = 5

CONCEPTS = {
    "tin_robot": Thing("robot", "blue", "orange", "checked"),
    "little_boat": Thing("boat", "red", "white", "striped"),
    "old_lamp": Thing("lamp", "yellow", "purple", "dotted"),
    "party_cake": Thing("cake", "pink", "brown", "dotted"),
    "racing_car": Thing("car", "green", "black", "striped"),
    "paper_kite": Thing("kite", "purple", "yellow", "checked"),
    "camp_mug": Thing("mug", "white", "red", "dotted"),
    "doll_house": Thing("house", "orange", "blue", "plain"),
}

Item = tuple[KnowledgeAspect, str, str]
A = KnowledgeAspect

KNOWLEDGE: dict[str, tuple[Item, ...]] = {
    "tin_robot": (
        (A.PERSONAL_RELATIONSHIP, "my birthday gift", "What did I get for my birthday?"),
        (A.FUNCTIONALITY, "the helper that waters our garden", "What waters our garden?"),
        (A.ORIGIN, "the find from the Tokyo market", "What did we find in Tokyo?"),
        (A.VALUE, "the most expensive thing on the shelf", "Which thing on the shelf cost the most?"),
        (A.EMOTION, "the thing that scares the cat", "What scares the cat?"),
    ),
    "little_boat": (
        (A.PERSONAL_RELATIONSHIP, "my grandfather's companion", "What does my grandfather take along?"),
        (A.PHYSICAL_ATTRIBUTE, "the red one with the white sail", "Which one has a white sail?"),
        (A.FUNCTIONALITY, "the toy for the bath", "What do we play with in the bath?"),
        (A.ORIGIN, "the present from the harbour", "What came from the harbour?"),
        (A.EMOTION, "the thing that makes Tom think of summer", "What makes Tom think of summer?"),
    ),
    "old_lamp": (
        (A.PERSONAL_RELATIONSHIP, "Anna's reading friend", "What keeps Anna company when she reads?"),
        (A.FUNCTIONALITY, "the light beside the bed", "What lights the bed?"),
        (A.VALUE, "the oldest piece of the house", "Which piece of the house is the oldest?"),
        (A.ORIGIN, "the flea market bargain", "What did we buy at the flea market?"),
        (A.EMOTION, "the comfort of dark evenings", "What comforts us on dark evenings?"),
    ),
    "party_cake": (
        (A.PERSONAL_RELATIONSHIP, "Lena's surprise", "What surprised Lena?"),
        (A.PHYSICAL_ATTRIBUTE, "the pink one with the candle", "Which pink one has a candle?"),
        (A.FUNCTIONALITY, "the dessert of the wedding", "What was eaten last at the wedding?"),
        (A.VALUE, "the winner of the baking contest", "What won the baking contest?"),
        (A.EMOTION, "the joy of the whole class", "What made the whole class happy?"),
    ),
    "racing_car": (
        (A.PERSONAL_RELATIONSHIP, "my brother's pride", "What is my brother proud of?"),
        (A.FUNCTIONALITY, "the fastest one on the track", "What is faster than all others on the track?"),
        (A.ORIGIN, "the prize from the fair", "What did we win at the fair?"),
        (A.VALUE, "the rarest of the collection", "Which piece of the collection is the rarest?"),
        (A.EMOTION, "the thing that makes Max cheer", "What does Max cheer for?"),
    ),
    "paper_kite": (
        (A.PERSONAL_RELATIONSHIP, "the gift from my teacher", "What did my teacher give me?"),
        (A.PHYSICAL_ATTRIBUTE, "the one with the long tail", "Which one has a long tail?"),
        (A.FUNCTIONALITY, "the toy for windy days", "What do we take out when it is windy?"),
        (A.ORIGIN, "the souvenir of our trip to China", "What did we bring from China?"),
        (A.EMOTION, "the thing Nora dreams of", "What does Nora dream of?"),
    ),
    "camp_mug": (
        (A.PERSONAL_RELATIONSHIP, "my father's favourite", "What does my father like best?"),
        (A.FUNCTIONALITY, "the home of my morning tea", "What do I drink my tea from?"),
        (A.VALUE, "the cheapest item of the camp", "Which item of the camp cost the least?"),
        (A.ORIGIN, "the relic of the mountain hut", "What is left of the mountain hut?"),
        (A.EMOTION, "the warmth of cold mornings", "What warms us on cold mornings?"),
    ),
    "doll_house": (
        (A.PERSONAL_RELATIONSHIP, "my sister's secret", "What does my sister hide?"),
        (A.PHYSICAL_ATTRIBUTE, "the orange one with the blue roof", "Which one has a blue roof?"),
        (A.FUNCTIONALITY, "the place where the dolls sleep", "Where do the dolls sleep?"),
        (A.ORIGIN, "the work of the village carpenter", "What did the village carpenter make?"),
        (A.VALUE, "the heart of the attic", "Which thing of the attic matters most?"),
    ),
}  # fmt: skip
"""Aspect, referring phrase and a rephrasing of the question "What is <phrase>?"."""

BACKGROUND_PROMPTS = tuple(
    f"a photo of {{}} {place}"
    for place in ("on the beach", "in the meadow", "in the snow", "in the desert", "at night", "on the street")
)
INSERTION_PROMPTS = tuple(f"{{}} next to {thing}" for thing in ("a red ball", "a blue box", "a yellow flag"))
STYLE_PROMPTS = ("a sketch of {}", "{} in the style of pixel art")
ATTRIBUTE_PROMPTS = ("a green version of {}", "a striped version of {}", "a tiny version of {}")


def build_benchmark(directory: Path) -> None:
    """Write the benchmark into a new directory, the same bytes every time (for one version of Pillow's PNG encoder)."""
    dataset = []
    for index, (name, thing) in enumerate(CONCEPTS.items()):
        _write_references(directory, name)
        dataset.append({"concept": name, "class": thing.kind, "prompts": prompts(index)})
        _write_json(directory / "knowledge_data" / f"{name}.json", knowledge(name))
    _write_json(directory / "concept_image" / "dataset.json", dataset)


def prompts(index: int) -> list[dict[str, str]]:
    """Five prompts over the four aspects, other ones for every concept."""
    chosen = (
        (PromptAspect.BACKGROUND_CHANGE, BACKGROUND_PROMPTS[index % 6]),
        (PromptAspect.BACKGROUND_CHANGE, BACKGROUND_PROMPTS[(index + 3) % 6]),
        (PromptAspect.OBJECT_INSERTION, INSERTION_PROMPTS[index % 3]),
        (PromptAspect.STYLE_TRANSFER, STYLE_PROMPTS[index % 2]),
        (PromptAspect.ATTRIBUTE_MODIFICATION, ATTRIBUTE_PROMPTS[index % 3]),
    )
    return [{"text": text, "aspect": aspect.value} for aspect, text in chosen]


def knowledge(name: str) -> list[dict[str, Any]]:
    """The knowledge items of a concept in the release's keys."""
    answer = f"sks {CONCEPTS[name].kind}"
    return [
        {
            "knowledge": phrase,
            "question": f"What is {phrase}?",
            "answer": answer,
            "aspect": aspect.value,
            "rephrase": [rephrasing],
        }
        for aspect, phrase, rephrasing in KNOWLEDGE[name]
    ]


def references(name: str) -> list[Scene]:
    """The scenes of a concept's reference images."""
    generator = random.Random(name)
    backgrounds = generator.sample(sorted(BACKGROUNDS), REFERENCES)
    return [
        Scene(
            CONCEPTS[name],
            background,
            x=generator.uniform(0.42, 0.58),
            y=generator.uniform(0.48, 0.6),
            size=generator.uniform(0.26, 0.36),
        )
        for background in backgrounds
    ]


def _write_references(directory: Path, name: str) -> None:
    for number, scene in enumerate(references(name)):
        for folder, image in (("concept_image", render(scene)), ("concept_mask", Image.fromarray(mask(scene)))):
            path = directory / folder / name / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, compress_level=6)


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n")
