"""The example samples of a run: one per concept, drawn by every method."""

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
"""Number of concepts in an image grid, unless others are chosen."""


def example(run: Run, concept: Concept) -> dict[str, Any]:
    """Return the plan's example sample for a concept: one of its first seed, with a different prompt for each
    concept."""
    own = run.plan[run.plan["concept"] == concept.name]
    generated = own[own["task"] == Task.GENERATION.value]
    among = generated if len(generated) else own
    firsts = among[among["seed"] == among["seed"].iloc[0]]
    number = [one.name for one in run.concepts].index(concept.name) % PICTURE_ROWS
    return dict(firsts.iloc[number * len(firsts) // PICTURE_ROWS])


def picture_rows(
    run: Run, labels: Sequence[str] | None = None, concepts: Sequence[str] | None = None
) -> tuple[list[str], list[PictureRow]]:
    """Return the columns and rows of an image grid: for each concept a reference, then its example by every label.

    By default the grid has all labels, and the first `PICTURE_ROWS` concepts.
    """
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
    """Return an image's path, or None if it is missing or damaged; a line reports damage."""
    try:
        if path.exists():
            read_image(path)
            return path
    except ImageError as error:
        say_once(f"knowcusbench: not shown: {error}; remove the file, and `knowcusbench bench` draws it again")
    return None
