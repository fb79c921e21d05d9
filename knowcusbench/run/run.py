"""A run of one method: its plan, its parts and its directory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.method import Method
from knowcusbench.analysis.selection import Choice
from knowcusbench.backbone.base import BackboneSpec
from knowcusbench.benchmark.types import Benchmark, Concept
from knowcusbench.effects.spec import EffectsSpec
from knowcusbench.engine.base import Engine
from knowcusbench.metrics.base import Metric
from knowcusbench.metrics.protocol import Reduction
from knowcusbench.run.layout import RunStore
from knowcusbench.run.recorded import MethodRecord, method_record
from knowcusbench.storage.tables import read_table


@dataclass(frozen=True, kw_only=True)
class PaperSpec:
    """The part of the results that goes into a paper.

    Attributes:
        table: rows and columns of the table.
        concepts: concepts of the image grids; None for the first ones.
        cost: the cost that quality is compared with.
    """

    table: Choice
    concepts: tuple[str, ...] | None
    cost: str


@dataclass(frozen=True)
class Run:
    """One method's part of a run: its plan, its parts and its directory.

    Attributes:
        protocols: for every metric, a digest of everything that decides its numbers, including `reduction`.
        renamed: the same digests by those that an earlier version wrote.
        truth: the metrics that the others are judged by.
    """

    store: RunStore
    label: str
    benchmark: Benchmark
    concepts: tuple[Concept, ...]
    plan: pd.DataFrame
    backbone: BackboneSpec
    method: Method
    metrics: dict[str, Metric]
    protocols: dict[str, str]
    reduction: Reduction
    truth: tuple[str, ...]
    paper: PaperSpec
    effects: EffectsSpec
    engine: Engine
    cache: AdapterCache
    renamed: Mapping[str, str] = field(default_factory=dict)

    def table(self, path: Path) -> pd.DataFrame:
        """Read a table of the run, with earlier digests of protocols replaced by present ones."""
        found = read_table(path)
        if self.renamed and "protocol" in found:
            return found.assign(protocol=found["protocol"].map(lambda digest: self.renamed.get(digest, digest)))
        return found

    @cached_property
    def methods(self) -> Mapping[str, MethodRecord]:
        """The records of all methods of the run directory, by label, in the order of tables."""
        found = {label: method_record(self.store, label, self.concepts) for label in self.store.labels()}
        return dict(sorted(found.items(), key=lambda entry: entry[1].role.place))

    @cached_property
    def gallery(self) -> Mapping[str, tuple[Path, ...]]:
        """The reference images of all concepts by name."""
        return {concept.name: concept.images for concept in self.concepts}

    def concept(self, name: str) -> Concept:
        """Return the concept called `name`."""
        return next(concept for concept in self.concepts if concept.name == name)
