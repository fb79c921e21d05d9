"""The format of a bundle: its manifest and the columns of its tables.

    manifest.json                  schema version, group and run, SHA-256 and size of every other part
    scores.parquet                 one row per method, sample and metric
    floors.parquet, ceilings.parquet, costs.parquet
    leaderboard.json               the numbers that follow from these tables
    run.json, configs/<label>.yaml the configurations
    provenance/<time>-<label>.json versions, hardware and commands
    images/<label>/<concept>.png   a few samples

A bundle is a zip file of uncompressed parts, or the same files in a directory.
"""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

from knowcusbench.adaptation.method import Role
from knowcusbench.benchmark.types import Task
from knowcusbench.metrics.protocol import Reduction

SCHEMA_VERSION = 2
"""Version of the bundle format."""

MANIFEST = "manifest.json"
LEADERBOARD = "leaderboard.json"
IDENTITY = "run.json"

_TEXT, _NUMBER = pa.string(), pa.float64()

TABLES = {
    "scores.parquet": pa.schema(
        [
            ("sample_id", _TEXT),
            ("method", _TEXT),
            ("metric", _TEXT),
            ("value", _NUMBER),
            ("note", _TEXT),
            ("protocol", _TEXT),
            ("concept", _TEXT),
            ("task", _TEXT),
            ("knowledge", pa.int32()),
            ("knowledge_aspect", _TEXT),
            ("phrase", _TEXT),
            ("prompt", _TEXT),
            ("prompt_aspect", _TEXT),
            ("seed", pa.int64()),
        ]
    ),
    "floors.parquet": pa.schema([("metric", _TEXT), ("task", _TEXT), ("concept", _TEXT), ("value", _NUMBER)]),
    "ceilings.parquet": pa.schema([("metric", _TEXT), ("concept", _TEXT), ("value", _NUMBER)]),
    "costs.parquet": pa.schema(
        [
            ("method", _TEXT),
            ("concept", _TEXT),
            ("seconds", _NUMBER),
            ("peak_memory_bytes", pa.int64()),
            ("adapter_bytes", pa.int64()),
            ("image_seconds", _NUMBER),
        ]
    ),
}
"""The tables and their columns. A sample's id is the hash of its concept, task, phrase, prompt and seed."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e]*$")]
"""A text that is printed: it has no control characters."""


GROUP = r"^[^\x00-\x1f\x7f-\x9f/\\]{0,100}$"


def is_group(name: str) -> bool:
    """Return whether a group can have this name.

    >>> is_group("lab-a"), is_group("lab/a")
    (True, False)
    """
    return re.fullmatch(GROUP, name) is not None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(_Model):
    """The SHA-256 and size of a file."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Heading(_Model):
    """The heading of a metric: title, range of its scores (None if unbounded), and number of decimals."""

    title: Name
    tasks: tuple[Task, ...]
    higher_is_better: bool
    bounds: tuple[FiniteFloat, FiniteFloat] | None
    decimals: Annotated[int, Field(ge=0, le=10)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.bounds and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds: expected a low and a higher number, found {self.bounds}")
        return self


class Manifest(_Model):
    """The description of a bundle.

    Attributes:
        schema_version: version of the bundle format.
        group: the group that made the results; empty if unnamed.
        run: the run's name.
        knowcusbench: the version that wrote the bundle.
        benchmark: digest of the benchmark.
        grid: settings of the grid of samples.
        backbone: settings of the backbone, without the source of its weights.
        weights: digest of the backbone's weights; None if unknown.
        concepts: number of concepts in the grid.
        planned: number of samples by task.
        reduction: how scores become one number.
        methods: role of each method, by label.
        metrics: heading of each metric, by name, in the order of the columns.
        protocols: digest of how each metric was computed.
        parts: SHA-256 and size of every other file.
    """

    schema_version: int
    group: Annotated[str, StringConstraints(pattern=GROUP)]
    run: Name
    knowcusbench: str
    benchmark: str
    grid: dict[str, Any]
    backbone: dict[str, Any]
    weights: str | None
    concepts: Annotated[int, Field(ge=0)]
    planned: dict[Task, Annotated[int, Field(ge=0)]]
    reduction: Reduction
    methods: dict[Name, Role]
    metrics: dict[Name, Heading]
    protocols: dict[str, str]
    parts: dict[str, Part]


def is_safe(name: str) -> bool:
    """Return whether a part's name stays inside its directory, on any system.

    >>> is_safe("images/mokus/dog3.png"), is_safe("../run.json"), is_safe("C:run.json")
    (True, False, False)
    """
    path = PurePosixPath(name)
    return (
        bool(name)
        and name == path.as_posix()
        and not path.is_absolute()
        and ".." not in path.parts
        and name.isprintable()
        and not set(name) & set('\\:*?"<>|')
    )
