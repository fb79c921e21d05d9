"""Which samples stand for a run: one of each concept, drawn by every method."""

from collections.abc import Sequence
from typing import Any

import yaml

from knowcusbench.benchmark.types import Concept, Prompt, Task
from knowcusbench.report.leaderboard import place_of
from knowcusbench.report.pictures import PictureRow
from knowcusbench.stages.prepare import Run

PICTURE_ROWS = 8
"""Concepts in a picture grid, unless others are chosen."""


def method_names(run: Run) -> dict[str, str]:
    """Label of every method of the run -> the method's own name, its file's: a label can be anything."""
    configs = {label: yaml.safe_load(run.store.config(label).read_bytes()) for label in run.store.labels()}
    return {label: str(config["method"]["_target_"]).split(".")[-2] for label, config in configs.items()}


def labels_in_order(run: Run) -> list[str]:
    """The run's labels as in its tables: floors, methods, ceilings."""
    names = method_names(run)
    return sorted(names, key=lambda label: place_of(names[label]))


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
    labels = labels_in_order(run) if labels is None else labels
    rows = []
    for concept in map(run.concept, concepts) if concepts is not None else run.concepts[:PICTURE_ROWS]:
        sample = example(run, concept)
        drawn = [run.store.image(label, concept.name, sample["id"]) for label in labels]
        phrase = concept.knowledge[sample["knowledge"]].phrase
        text = Prompt(sample["prompt"], sample["prompt_aspect"]).fill(phrase)
        references = [concept.images[0] if concept.images else None]
        rows.append(PictureRow(text, [*references, *(path if path.exists() else None for path in drawn)]))
    return ["reference", *labels], rows
