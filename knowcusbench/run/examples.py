"""The example samples of a run: one per concept, drawn by every method."""

from typing import Any

from knowcusbench.benchmark.types import Concept, Task
from knowcusbench.run.run import Run

EXAMPLES = 8
"""Number of different prompts among the examples, and of concepts in an image grid unless others are chosen."""


def example(run: Run, concept: Concept) -> dict[str, Any]:
    """Return the plan's example sample for a concept: one of its first seed, with a different prompt for each
    concept."""
    own = run.plan[run.plan["concept"] == concept.name]
    generated = own[own["task"] == Task.GENERATION.value]
    among = generated if len(generated) else own
    firsts = among[among["seed"] == among["seed"].iloc[0]]
    number = [one.name for one in run.concepts].index(concept.name) % EXAMPLES
    return dict(firsts.iloc[number * len(firsts) // EXAMPLES])
