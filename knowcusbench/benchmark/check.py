"""Checking a benchmark directory: its statistics and all its faults."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from knowcusbench.benchmark.release import read_release
from knowcusbench.benchmark.types import Benchmark, Concept
from knowcusbench.errors import ImageError
from knowcusbench.storage.images import decode_image

SEED_COUNT = 5
"""Seeds per prompt in the paper."""


@dataclass(frozen=True, kw_only=True)
class GridCounts:
    """Number of samples of a grid over all concepts and knowledge items, with `SEED_COUNT` seeds."""

    reconstruction: int
    generation: int

    @property
    def total(self) -> int:
        return self.reconstruction + self.generation


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counts of a benchmark's contents.

    Attributes:
        concepts, images, knowledge, prompts: their numbers.
        knowledge_by_aspect, prompts_by_aspect: the same by aspect.
        distinct_prompts: number of different prompts; a prompt shared by several concepts counts once.
        paired: samples of the grid in which each concept has its own prompts (the paper's).
        crossed: samples of the grid in which every distinct prompt is used with every concept.
    """

    concepts: int
    images: int
    knowledge: int
    knowledge_by_aspect: Mapping[str, int]
    prompts: int
    prompts_by_aspect: Mapping[str, int]
    distinct_prompts: int
    paired: GridCounts
    crossed: GridCounts


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The outcome of a check.

    Attributes:
        root: the directory that was checked.
        digest: the benchmark's digest; None if there are faults.
        statistics: counts of what could be read.
        faults: faults that must be corrected, one line each.
        notes: assumptions, derived values, conversions and ignored files, one line each.
    """

    root: Path
    digest: str | None
    statistics: Statistics
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    def render(self) -> str:
        """Return the report as text for a terminal."""
        return "\n".join(
            [
                f"Benchmark {self.root}",
                *_statistics_lines(self.statistics),
                f"  {'digest':<28}{self.digest or 'none, see the faults'}",
                *_list_lines("notes", self.notes),
                *_list_lines("faults", self.faults),
            ]
        )


def check_benchmark(root: Path) -> CheckReport:
    """Read a benchmark directory as `load_benchmark` does, decode every image too, and report all findings.

    A bad benchmark raises nothing; a missing directory gives a report with one fault.
    """
    reading = read_release(root)
    faults, notes = list(reading.faults), list(reading.benchmark.notes)
    for path in reading.images:
        where = path.relative_to(reading.benchmark.root)
        try:
            treatments = decode_image(path).treatments
        except ImageError as error:
            faults.append(str(error).replace(str(path), str(where)))
        else:
            if treatments:
                notes.append(f"{where}: converted to RGB: {', '.join(treatments)}")
    return CheckReport(
        root=root,
        digest=None if faults else reading.benchmark.digest,
        statistics=benchmark_statistics(reading.benchmark),
        faults=tuple(faults),
        notes=tuple(notes),
    )


def benchmark_statistics(benchmark: Benchmark) -> Statistics:
    """Count the contents of a benchmark."""
    concepts = benchmark.concepts
    prompts = [prompt for concept in concepts for prompt in concept.prompts]
    knowledge = [item for concept in concepts for item in concept.knowledge]
    distinct = len({prompt.template for prompt in prompts})
    return Statistics(
        concepts=len(concepts),
        images=sum(len(concept.images) for concept in concepts),
        knowledge=len(knowledge),
        knowledge_by_aspect=_sorted_counts(item.aspect for item in knowledge),
        prompts=len(prompts),
        prompts_by_aspect=_sorted_counts(prompt.aspect for prompt in prompts),
        distinct_prompts=distinct,
        paired=_grid_counts(concepts, [len(concept.prompts) for concept in concepts]),
        crossed=_grid_counts(concepts, [distinct] * len(concepts)),
    )


def _grid_counts(concepts: Sequence[Concept], prompt_counts: Sequence[int]) -> GridCounts:
    item_counts = [len(concept.knowledge) for concept in concepts]
    pairs = sum(items * prompts for items, prompts in zip(item_counts, prompt_counts, strict=True))
    return GridCounts(reconstruction=sum(item_counts) * SEED_COUNT, generation=pairs * SEED_COUNT)


def _sorted_counts(values: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _statistics_lines(statistics: Statistics) -> Iterator[str]:
    yield _count_line("concepts", statistics.concepts)
    yield _count_line("reference images", statistics.images)
    yield _count_line("knowledge items", statistics.knowledge)
    for aspect, count in statistics.knowledge_by_aspect.items():
        yield _count_line(f"  {aspect}", count)
    yield _count_line("prompts", statistics.prompts) + f"   ({statistics.distinct_prompts} distinct)"
    for aspect, count in statistics.prompts_by_aspect.items():
        yield _count_line(f"  {aspect}", count)
    yield f"  samples with {SEED_COUNT} seeds"
    for name, grid in (("paired", statistics.paired), ("crossed", statistics.crossed)):
        parts = f"   ({grid.reconstruction:,} reconstruction, {grid.generation:,} generation)"
        yield _count_line(f"  {name} grid", grid.total) + parts


def _count_line(name: str, count: int) -> str:
    return f"  {name:<28}{count:>9,}"


def _list_lines(title: str, lines: Sequence[str]) -> Iterator[str]:
    yield f"{title}: {len(lines) or 'none'}"
    for line in lines:
        yield f"  {line}"
