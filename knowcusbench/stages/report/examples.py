"""The image grid of a run: a reference and an example of every concept, drawn by every method."""

from collections.abc import Sequence
from pathlib import Path

from knowcusbench.benchmark.types import Prompt
from knowcusbench.errors import ImageError
from knowcusbench.machine.progress import say_once
from knowcusbench.report.figures.pictures import PictureRow
from knowcusbench.run.examples import EXAMPLES, example
from knowcusbench.run.run import Run
from knowcusbench.storage.images import read_image


def picture_rows(
    run: Run, labels: Sequence[str] | None = None, concepts: Sequence[str] | None = None
) -> tuple[list[str], list[PictureRow]]:
    """Return the columns and rows of an image grid: for each concept a reference, then its example by every label.

    By default the grid has all labels, and the first `EXAMPLES` concepts.
    """
    labels = list(run.methods) if labels is None else labels
    rows = []
    for concept in map(run.concept, concepts) if concepts is not None else run.concepts[:EXAMPLES]:
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
