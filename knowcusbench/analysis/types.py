"""The input of a leaderboard, and the leaderboard: frozen data that every table is rendered from."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import pandas as pd

from knowcusbench.adaptation.method import Role
from knowcusbench.analysis.published import PublishedValue
from knowcusbench.benchmark.types import Task
from knowcusbench.metrics.bounds import COSINE_DECIMALS, UNBOUNDED, Bounds
from knowcusbench.metrics.protocol import Reduction

FLOORS = ["metric", "task", "concept", "value"]


class Described(Protocol):
    """Description of a metric whose scores are shown; `bounds` may be None for a metric without."""

    @property
    def title(self) -> str: ...
    @property
    def tasks(self) -> Collection[Task]: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def bounds(self) -> tuple[float, float] | None: ...
    @property
    def decimals(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class MetricHeading:
    """How to show a metric.

    Attributes:
        title: heading of its columns.
        tasks: tasks with a column.
        higher_is_better: direction of better scores.
        bounds: range of its scores; no interval leaves it.
        decimals: digits after the point.
    """

    title: str
    tasks: frozenset[Task]
    higher_is_better: bool = True
    bounds: Bounds = UNBOUNDED
    decimals: int = COSINE_DECIMALS

    @classmethod
    def of(cls, metric: Described) -> "MetricHeading":
        """Return the heading of a metric, or of a bundle's description of one."""
        return cls(
            title=metric.title,
            tasks=frozenset(metric.tasks),
            higher_is_better=metric.higher_is_better,
            bounds=Bounds(*metric.bounds) if metric.bounds else UNBOUNDED,
            decimals=metric.decimals,
        )


@dataclass(frozen=True, kw_only=True)
class ReportInput:
    """The results of a run.

    Attributes:
        run: name of the run.
        methods: label of every method of the run -> its role, in the order of the rows.
        metrics: the metrics to show, in the order of the columns. Scores of others are left out.
        concepts: number of concepts in the grid.
        scores: one row per sample and metric; columns sample_id (the same for all methods), method (the label), task,
            concept, knowledge_aspect, prompt_aspect, metric, value, protocol (digest of the metric's protocol) and note
            (empty for none). NaN is a missing value.
        expected: columns method, task, planned (number of samples in the plan).
        costs: one row per method and concept; columns method, concept, seconds, peak_memory_bytes and adapter_bytes of
            its adaptation, image_seconds (seconds to draw one image, NaN if unknown).
        ceilings: scores of real images against each other; columns metric, concept, value.
        floors: scores of images against another sample's prompt or references; columns `FLOORS`, all methods together.
        reduction: reduction of samples to one number per method.
        published: numbers of a paper to show below; those without a column are left out.
        gone: number of planned images of a method missing from the run directory, by label.
        altered: number of images of a method that have changed since they were scored, by label.
        truth: metrics that the others are compared with; those that are not among `metrics` are ignored.
    """

    run: str
    methods: Mapping[str, Role]
    metrics: Mapping[str, MetricHeading]
    concepts: int
    scores: pd.DataFrame
    expected: pd.DataFrame
    costs: pd.DataFrame
    ceilings: pd.DataFrame
    floors: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=FLOORS))
    reduction: Reduction = Reduction.macro
    published: tuple[PublishedValue, ...] = ()
    gone: Mapping[str, int] = field(default_factory=dict)
    altered: Mapping[str, int] = field(default_factory=dict)
    truth: tuple[str, ...] = ()

    @property
    def bounds(self) -> Mapping[str, Bounds]:
        """The range of every metric's scores."""
        return {name: heading.bounds for name, heading in self.metrics.items()}


class RowKind(StrEnum):
    """The kind of a row. Only methods compete for best and second."""

    METHOD = "method"
    CONTROL = "control"
    FLOOR = "floor"
    CEILING = "ceiling"
    PUBLISHED = "published"


class Mark(StrEnum):
    """Rank of a cell among the methods of its column."""

    BEST = "best"
    SECOND = "second"


class Counted(StrEnum):
    """The unit that the mean in a cell is taken over."""

    SAMPLES = "samples"
    CONCEPTS = "concepts"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of numbers.

    Attributes:
        metric: key of the metric or cost.
        task: None for a cost.
        group, name: the heading's two lines ("Recon.", "CLIP-I").
        decimals: digits shown after the point.
        higher_is_better: the direction of best; None if there is none.
    """

    metric: str
    task: Task | None
    group: str
    name: str
    decimals: int
    higher_is_better: bool | None

    @property
    def key(self) -> str:
        """The column's name in machine-readable tables."""
        return f"{self.task}_{self.metric}" if self.task else self.metric

    @property
    def title(self) -> str:
        """The heading in one line."""
        return f"{self.group} {self.name}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number and the size of the set it is a mean of.

    Attributes:
        value: None if there is nothing to show.
        low, high: ends of its 95% interval over concepts; None if unknown.
        n, expected: number of samples or concepts in the mean, and their expected number. Both are 0 for published
            numbers and where nothing is expected.
        counted: unit of `n` and `expected`.
        approximate: the source gives the number as "about".
        mark: best, second or neither.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    expected: int = 0
    counted: Counted = Counted.SAMPLES
    approximate: bool = False
    mark: Mark | None = None

    @property
    def complete(self) -> bool:
        return self.n >= self.expected


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the leaderboard.

    Attributes:
        label: label of the method, control, floor or ceiling.
        kind: kind of the row.
        cells: one per column.
        source: the paper of a published row.
        gone: number of its planned images missing from the run directory.
        altered: number of its images that have changed since they were scored.
    """

    label: str
    kind: RowKind
    cells: tuple[Cell, ...]
    source: str = ""
    gone: int = 0
    altered: int = 0

    @property
    def title(self) -> str:
        """The label, followed by the kind for rows that are not methods."""
        return self.label if self.kind is RowKind.METHOD else f"{self.label} ({self.kind})"


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """All methods of a run against each other.

    Attributes:
        title: kind of the table.
        run: name of the run.
        reading: explanation of its numbers.
        columns: tasks times metrics, then costs.
        rows: floors, methods, ceilings, shuffled pairs, real images, published rows.
        protocols: metric -> digest of its scores' protocol.
        remarks: summary of the scores' notes, one sentence per metric that has any.
    """

    title: str
    run: str
    reading: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    protocols: Mapping[str, str]
    remarks: tuple[str, ...] = ()
