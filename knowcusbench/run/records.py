"""What is recorded of a run, as its tables are read by: of methods and metrics, so that no code of theirs is needed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from knowcusbench.analysis.types import MetricHeading
from knowcusbench.benchmark.types import Task
from knowcusbench.config.build import build
from knowcusbench.errors import ConfigError, RunError
from knowcusbench.machine.progress import say
from knowcusbench.metrics.protocol import Reduction
from knowcusbench.run.jobs import images_in
from knowcusbench.run.layout import RunStore
from knowcusbench.run.recorded import MethodRecord, method_record, read_recorded, renamed_protocols
from knowcusbench.run.run import Run
from knowcusbench.storage.tables import read_table


@dataclass(frozen=True, kw_only=True)
class RunRecords:
    """What the tables of a run directory are read by.

    Attributes:
        store: the run directory.
        plan: one row per sample (`make_plan`).
        methods: what is recorded of each method, by label, in the order of tables.
        metrics: how each metric is shown.
        reduction: how scores become one number.
        truth: the metrics that the others are judged by.
        concepts: the number of knowledge items of each concept, in the order of the plan.
        renamed: today's digests of protocols by those of an earlier version.
    """

    store: RunStore
    plan: pd.DataFrame
    methods: Mapping[str, MethodRecord]
    metrics: Mapping[str, MetricHeading]
    reduction: Reduction
    truth: tuple[str, ...]
    concepts: Mapping[str, int]
    renamed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> "RunRecords":
        """Return what a command knows of its run."""
        return cls(
            store=run.store,
            plan=run.plan,
            methods=run.methods,
            metrics={name: MetricHeading.of(metric) for name, metric in run.metrics.items()},
            reduction=run.reduction,
            truth=run.truth,
            concepts={concept.name: len(concept.knowledge) for concept in run.concepts},
            renamed=run.renamed,
        )

    @classmethod
    def read(cls, store: RunStore) -> "RunRecords":
        """Read what a run directory says of itself. Raises RunError if it is none."""
        labels = store.labels()
        if not labels or not store.plan.exists():
            raise RunError(f"{store.root} is no run; make one with `knowcusbench bench`, or name another")
        configs = [read_recorded(store, label) for label in labels]
        nodes = {name: node for config, _ in configs for name, node in config["metrics"].items()}
        headings = {name: heading for _, record in configs if record for name, heading in record.metrics.items()}
        first, plan = configs[0][0], read_table(store.plan)
        items = plan.groupby("concept", observed=True)["knowledge"].nunique()
        # Without concepts: what an earlier version did not record of them is left out.
        methods = {label: method_record(store, label, ()) for label in labels}
        return cls(
            store=store,
            plan=plan,
            methods=dict(sorted(methods.items(), key=lambda entry: entry[1].role.place)),
            metrics={name: headings.get(name) or _heading_by_class(name, node) for name, node in nodes.items()},
            reduction=Reduction(first["protocol"]["reduction"]) if "protocol" in first else Reduction.macro,
            truth=tuple(first["report"].get("truth") or ()),
            concepts={str(concept): int(items[concept]) for concept in plan["concept"].unique()},
            renamed=renamed_protocols(store),
        )

    def table(self, path: Path) -> pd.DataFrame:
        """Return a table of the run, with the digests of protocols as they are today."""
        found = read_table(path)
        if self.renamed and "protocol" in found:
            return found.assign(protocol=found["protocol"].map(lambda digest: self.renamed.get(digest, digest)))
        return found

    def drawn(self, label: str) -> set[str]:
        """Return the ids of the samples of which a method has an image."""
        return images_in([self.store.image(label, concept, "").parent for concept in self.concepts])

    def parts(
        self, directories: Callable[[str, str, int | None], Path], label: str, concept: str, *files: str
    ) -> list[tuple[int | None, Path]]:
        """Return where a method's results for a concept lie: one place, or one by knowledge item.

        Args:
            directories: gives the place by label, concept and item, as `RunStore.adaptation` does.
            label: of the method.
            concept: its name.
            files: nothing is returned if these are not in all places.
        """
        whole = [(None, directories(label, concept, None))]
        items = [(number, directories(label, concept, number)) for number in range(self.concepts[concept])]
        for parts in (whole, items):
            if all((directory / file).exists() for _, directory in parts for file in files):
                return list(parts)
        return []


def _heading_by_class(name: str, node: Any) -> MetricHeading:
    """Return how a metric is shown of which an earlier version recorded nothing, by its class if that is there."""
    try:
        return MetricHeading.of(build(node, f"metrics.{name}"))
    except ConfigError as error:
        say(f"{error}; its column is headed {name!r}, and higher counts as better")
        return MetricHeading(title=name, tasks=frozenset(Task))
