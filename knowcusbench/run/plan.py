"""The plan: every sample of a grid, with ids and noise seeds derived from content."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pandas as pd

from knowcusbench.benchmark.types import RECONSTRUCTION_PROMPT, Benchmark, Concept, Task
from knowcusbench.config.schema import GridConfig, Pairing
from knowcusbench.errors import ConfigError, did_you_mean
from knowcusbench.storage.digests import content_id, noise_seed
from knowcusbench.storage.names import matching

T = TypeVar("T")

CATEGORICAL = ("concept", "task", "knowledge_aspect", "prompt", "prompt_aspect")
"""Text columns of a plan, stored as categories."""


@dataclass(frozen=True)
class Sample:
    """One image to make.

    Attributes:
        id: 16 hex digits, a hash of concept, task, knowledge phrase, prompt and seed. It is the same in every run and
            for every method, so that methods are compared on the same samples and the same noise.
        concept: the concept's name.
        task: reconstruction or generation.
        knowledge: index of the knowledge item within the concept.
        knowledge_aspect, prompt_aspect: the kinds of knowledge and prompt.
        prompt: the template, with `{}` in place of the concept's name.
        seed: the grid's seed.
    """

    id: str
    concept: str
    task: Task
    knowledge: int
    knowledge_aspect: str
    prompt: str
    prompt_aspect: str
    seed: int

    @property
    def noise_seed(self) -> int:
        """Seed of the initial noise, derived from the id, so that it depends on the sample's content alone."""
        return noise_seed(self.id)


def select_concepts(benchmark: Benchmark, grid: GridConfig) -> tuple[Concept, ...]:
    """Return the concepts of the grid, with the knowledge items and prompts that the grid asks for.

    A concept is left out if one of these items has no phrase, since it then has no prompt. Raises ConfigError for a
    pattern that matches no concept, for more items or prompts than there are, for held-out images that leave a concept
    none, and if every concept is left out.
    """
    names = [concept.name for concept in benchmark.concepts]
    if not grid.concepts:
        raise ConfigError('grid.concepts: expected at least one name or glob, as in "grid.concepts=[*]"')
    wanted = set(matching(grid.concepts, names, "grid.concepts", complaint="matches no concept"))
    # One prompt per template: the aspect is not part of a sample's identity.
    everyone = tuple({prompt.template: prompt for c in benchmark.concepts for prompt in c.prompts}.values())
    crossed = grid.pairing is Pairing.crossed
    chosen = []
    for concept in benchmark.concepts:
        if concept.name not in wanted:
            continue
        prompts = everyone if crossed else concept.prompts
        if not 0 <= grid.held_out < max(len(concept.images), 1):
            raise ConfigError(
                f"grid.held_out: {grid.held_out} of the {len(concept.images)} reference images of {concept.name} can't "
                "be held out; methods need at least one"
            )
        knowledge = _first(concept.knowledge, grid.knowledge_items, f"{concept.name}: knowledge_items")
        if not all(item.phrase for item in knowledge):
            continue
        chosen.append(
            replace(
                concept.holding_out(grid.held_out),
                knowledge=knowledge,
                prompts=_first(prompts, grid.prompts, f"{concept.name}: prompts"),
            )
        )
    if not chosen:
        raise ConfigError(
            f"grid.concepts: {', '.join(grid.concepts)} leaves no concept whose knowledge items all have a phrase; "
            "give them one (`knowcusbench check` names the items), or take fewer with grid.knowledge_items="
        )
    return tuple(chosen)


def _first(items: tuple[T, ...], count: int | None, what: str) -> tuple[T, ...]:
    if count is not None and not 1 <= count <= len(items):
        raise ConfigError(f"grid: {what}={count} is not between 1 and the {len(items)} that there are")
    return items[:count]


def make_plan(concepts: Sequence[Concept], grid: GridConfig) -> pd.DataFrame:
    """Return one row per sample, in the order concept, task, knowledge, prompt, seed.

    Columns are the fields of `Sample`. Text columns are categorical, so that a million rows stay small. Raises
    ConfigError for unknown tasks, repeated seeds, and seeds that are no 64-bit numbers.
    """
    tasks = _tasks(grid)
    if not grid.seeds or len(set(grid.seeds)) != len(grid.seeds):
        raise ConfigError(f"grid.seeds: expected different seeds, found {list(grid.seeds)}")
    check_seeds(grid.seeds, "grid.seeds")
    cells = [cell for concept in concepts for cell in _cells(concept, tasks)]
    seeds = list(grid.seeds)
    ids = [content_id(prefix, seed) for *_, prefix in cells for seed in seeds]
    columns = list(zip(*cells, strict=True))
    repeated = {
        name: np.repeat(np.array(values, dtype=object), len(seeds))
        for name, values in zip(
            ("concept", "task", "knowledge", "knowledge_aspect", "prompt", "prompt_aspect"),
            columns,
            strict=False,
        )
    }
    plan = pd.DataFrame({"id": ids, **repeated, "seed": np.tile(seeds, len(cells))})
    plan["knowledge"] = plan["knowledge"].astype("int32")
    return plan.astype(dict.fromkeys(CATEGORICAL, "category"))


def check_seeds(seeds: Iterable[int], key: str) -> None:
    """Raise ConfigError, naming `key`, for a seed that tables can't hold (signed 64-bit integers)."""
    if wrong := [seed for seed in seeds if not -(2**63) <= seed < 2**63]:
        raise ConfigError(f"{key}: {wrong[0]} is no 64-bit number; choose a smaller seed")


def _tasks(grid: GridConfig) -> list[Task]:
    known = [task.value for task in Task]
    if not grid.tasks:
        raise ConfigError(f"grid.tasks: expected at least one of {', '.join(known)}")
    for task in grid.tasks:
        if task not in known:
            raise ConfigError(f"grid.tasks: unknown task {task!r}{did_you_mean(task, known)}")
    return [task for task in Task if task.value in grid.tasks]


def _cells(concept: Concept, tasks: Sequence[Task]) -> Iterator[tuple[str, str, int, str, str, str, str]]:
    for task in tasks:
        prompts = (RECONSTRUCTION_PROMPT,) if task is Task.RECONSTRUCTION else concept.prompts
        for index, item in enumerate(concept.knowledge):
            for prompt in prompts:
                prefix = json.dumps([concept.name, task.value, item.phrase, prompt.template])
                yield (
                    concept.name,
                    task.value,
                    index,
                    item.aspect,
                    prompt.template,
                    prompt.aspect,
                    prefix,
                )


def samples(plan: pd.DataFrame) -> list[Sample]:
    """Return the rows of a plan as `Sample` objects."""
    return [
        Sample(**{**row, "task": Task(row["task"])})  # type: ignore[arg-type]
        for row in plan.to_dict("records")
    ]


def counts(plan: pd.DataFrame) -> dict[str, int]:
    """Return the number of samples by task."""
    return {task.value: int((plan["task"] == task.value).sum()) for task in Task}
