"""The embedded benchmark: eight drawn concepts in the release layout.

concept_image/<concept>/NN.png     four to six references, on different backgrounds
concept_image/dataset.json         class nouns and prompts
knowledge_data/<concept>.json      five knowledge items each
concept_mask/<concept>/NN.png      the exact mask of each reference (255 where the concept is): not a part of the
                                   release layout, so readers of releases ignore it
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from knowcusbench.benchmark.layout import DATASET_FILE, IMAGE_FOLDER, KNOWLEDGE_FOLDER
from knowcusbench.benchmark.types import RARE_TOKEN
from knowcusbench.storage.tables import write_json
from knowcusbench.toybox.world.concepts import NOVEL_CONCEPTS, NovelConcept
from knowcusbench.toybox.world.draws import shuffled
from knowcusbench.toybox.world.language import PROMPTS, knowledge_item
from knowcusbench.toybox.world.png import encode_png
from knowcusbench.toybox.world.render import mask, render
from knowcusbench.toybox.world.scene import Scene
from knowcusbench.toybox.world.vocabulary import BACKGROUNDS
from knowcusbench.toybox.world.world import compose, settled

MASK_FOLDER = "concept_mask"


def build_benchmark(directory: Path, concepts: Sequence[NovelConcept] = NOVEL_CONCEPTS) -> None:
    """Write a benchmark of these concepts into a new directory: the same bytes every time and everywhere."""
    dataset = []
    for concept in concepts:
        _write_references(directory, concept)
        write_json(directory / KNOWLEDGE_FOLDER / f"{concept.name}.json", knowledge(concept))
        prompts = [{"text": prompt, "aspect": PROMPTS[prompt].aspect} for prompt in concept.prompts]
        dataset.append({"concept": concept.name, "class": concept.thing.kind, "prompts": prompts})
    write_json(directory / DATASET_FILE, dataset)


def knowledge(concept: NovelConcept) -> list[dict[str, Any]]:
    """Return the knowledge items of a concept with the release's keys."""
    items = (knowledge_item(*known_as, f"{RARE_TOKEN} {concept.thing.kind}") for known_as in concept.known_as)
    return [
        {
            "knowledge": item.phrase,
            "question": item.question,
            "answer": item.answer,
            "aspect": item.aspect,
            "rephrase": list(item.rephrasings),
        }
        for item in items
    ]


def references(concept: NovelConcept) -> list[Scene]:
    """Return the scenes of a concept's reference images, each on another background."""
    rng = random.Random(f"pictures of {concept.name}")
    backgrounds = shuffled(rng, BACKGROUNDS)[: concept.references]
    return [settled(compose(rng, concept.thing, background=background)) for background in backgrounds]


def _write_references(directory: Path, concept: NovelConcept) -> None:
    for number, scene in enumerate(references(concept)):
        covered = np.where(mask(scene), np.uint8(255), np.uint8(0))
        for folder, pixels in ((IMAGE_FOLDER, np.asarray(render(scene))), (MASK_FOLDER, covered[..., None])):
            path = directory / folder / concept.name / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(pixels))
