"""Which samples stand for a run: one of each concept, drawn by every method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from knowcusbench.benchmark.types import Concept, Prompt, Task
from knowcusbench.errors import ImageError
from knowcusbench.machine.progress import say_once
from knowcusbench.report.figures.pictures import PictureRow
from knowcusbench.run.run import Run
from knowcusbench.storage.images import read_image

PICTURE_ROWS = 8
"""Concepts in a picture grid, unless others are chosen."""


def example(run: Run, concept: Concept) -> dict[str, Any]:
    """The sample of the plan that stands for a concept: of its first seed, with each concept another of its prompts."""
    own = run.plan[run.plan["concept"] == concept.name]
    generated = own[own["task"] == Task.GENERATION.value]
    among = generated if len(generated) else own
    firsts = among[among["seed"] == among["seed"].iloc[0]]
    number = [one.name for one in run.concepts].index(concept.name) % PICTURE_ROWS
    return dict(firsts.iloc[number * len(firsts) // PICTURE_ROWS])


def picture_rows(
    run: Run, labels: Sequence[str] | None = None, concepts: Sequence[str] | None = None
) -> tuple[list[str], list[PictureRow]]:
    """The columns and rows of a picture grid: for each concept a reference, then its example by every label (all of
    them, and the first concepts, unless chosen)."""
    labels = list(run.methods) if labels is None else labels
    rows = []
    for concept in map(run.concept, concepts) if concepts is not None else run.concepts[:PICTURE_ROWS]:
        sample = example(run, concept)
        drawn = [_readable(run.store.image(label, concept.name, sample["id"])) for label in labels]
        phrase = concept.knowledge[sample["knowledge"]].phrase
        text = Prompt(sample["prompt"], sample["prompt_aspect"]).fill(phrase)
        references = [concept.images[0] if concept.images else None]
        rows.append(PictureRow(text, [*references, *drawn]))
    return ["reference", *labels], rows


def _readable(path: Path) -> Path | None:
    """An image's path; None, said in a line, for one that is damaged, and for one that is not there."""
    try:
        if path.exists():
            read_image(path)
            return path
    except ImageError as error:
        say_once(f"knowcusbench: not shown: {error}; remove the file, and `knowcusbench bench` draws it again")
    return None
