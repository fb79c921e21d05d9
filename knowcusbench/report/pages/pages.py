"""Writer of the pages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment

from knowcusbench.analysis.footnotes import footnotes
from knowcusbench.analysis.significance import ALPHA, significant_marks
from knowcusbench.analysis.types import Column, Leaderboard, Row, RowKind
from knowcusbench.benchmark.types import Task
from knowcusbench.report.pages.environment import environment
from knowcusbench.report.pages.gallery import Gallery, write_gallery
from knowcusbench.report.pages.heat import breakdowns, confusion_tables
from knowcusbench.report.pages.plots import OWN, interval_plots, line_plots, pareto_plots
from knowcusbench.report.pages.types import Failure, PagesInput
from knowcusbench.storage.files import write_atomic

ASSETS = ("report.css", "tables.js", "gallery.js")

COST = "train_seconds"
"""Key of the cost on the Pareto plots' axis."""

NAMED = 12
"""Number of missing samples listed by name; the gallery shows them all."""


MOST_FAILURES = 30
"""Number of different failures listed; the run's folder has them all."""


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """Images of a method that failed in the same way.

    Attributes:
        first: the failure of one of them.
        ids: all ids, each with the gallery page of the image; empty for an image that is not in the gallery.
    """

    method: str
    first: Failure
    ids: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Progress of a method in a task.

    Attributes:
        planned, drawn: samples of the plan, and samples with an image.
        scored: samples scored by every metric of the task.
        missing: ids of samples not drawn yet.
        failed: ids of samples that could not be drawn.
    """

    method: str
    task: str
    planned: int
    drawn: int
    scored: int
    missing: Sequence[str]
    failed: Sequence[str]

    @property
    def complete(self) -> bool:
        return self.drawn >= self.planned and self.scored >= self.planned


def write_html(directory: Path, inputs: PagesInput) -> Path:
    """Write `index.html`, `provenance.html`, `gallery/` and `assets/` to `directory`, and return the path of the first.

    Pages are replaced. Pictures are made only if they are missing or older than their image.
    """
    for name in ASSETS:
        write_atomic(
            directory / "assets" / name, files("knowcusbench.report.pages").joinpath("assets", name).read_bytes()
        )
    rendering = environment()
    gallery = Gallery(inputs.gallery, directory, rendering)
    gallery.write_pictures()
    write_gallery(gallery, rendering, inputs.board.run)
    _write(rendering, directory, "provenance", inputs=inputs)
    return _write(rendering, directory, "index", inputs=inputs, **_index(inputs, gallery))


def _write(rendering: Environment, directory: Path, name: str, **context: Any) -> Path:
    path = directory / f"{name}.html"
    write_atomic(path, rendering.get_template(f"{name}.html.jinja").render(root="", **context).encode())
    return path


def _index(inputs: PagesInput, gallery: Gallery) -> dict[str, Any]:
    board = inputs.board
    scores = [column for column in board.columns if column.task]
    methods = [row.label for row in board.rows if row.kind in OWN]
    concepts = [concept.name for concept in inputs.gallery.concepts]
    return {
        "sections": sections(board),
        "marks": significant_marks(board, inputs.statistics),
        "alpha": ALPHA,
        "footnotes": footnotes(board),
        "coverage_rows": list(coverage_rows(inputs)),
        "faults": gallery.faults,
        "named": NAMED,
        "failures": list(failure_groups(gallery)),
        "most_failures": MOST_FAILURES,
        "intervals": interval_plots(board),
        "pareto": pareto_plots(board, COST),
        "breakdowns": [(column, breakdowns(inputs.statistics, column, methods, concepts)) for column in scores],
        "differences": list(_by_column(scores, inputs)),
        "effects_sections": sections(inputs.effects) if inputs.effects else [],
        "effects_notes": footnotes(inputs.effects) if inputs.effects else [],
        "confusions": {
            label: confusion_tables(inputs.confusions[label]) for label in methods if label in inputs.confusions
        },
        "lines": line_plots(inputs.ablation) if inputs.ablation else [],
        "firsts": [page for page in gallery.pages if page.number == 0],
        "gallery": gallery,
    }


def sections(board: Leaderboard) -> list[tuple[str, list[Row]]]:
    """Return the rows in parts that are sorted separately: methods and controls, floor and ceiling, published ones."""
    parts = [
        ("Methods and controls", OWN),
        ("Floor and ceiling", (RowKind.FLOOR, RowKind.CEILING)),
        ("Published", (RowKind.PUBLISHED,)),
    ]
    found = [(title, [row for row in board.rows if row.kind in kinds]) for title, kinds in parts]
    return [(title, rows) for title, rows in found if rows]


def coverage_rows(inputs: PagesInput) -> Iterator[Coverage]:
    """Yield planned, drawn and scored samples of every method and planned task."""
    plan = inputs.gallery.plan
    for task in Task:
        ids = plan.loc[plan["task"] == task.value, "id"].tolist()
        columns = [place for place, column in enumerate(inputs.board.columns) if column.task is task]
        if not ids:
            continue
        for row in inputs.board.rows:
            if row.kind in OWN:
                drawn = inputs.gallery.drawn.get(row.label, frozenset())
                missing = [sample for sample in ids if sample not in drawn]
                reasons = inputs.gallery.failed.get(row.label, {})
                scored = min((row.cells[place].n for place in columns), default=0)
                yield Coverage(
                    method=row.label,
                    task=task.value,
                    planned=len(ids),
                    drawn=len(ids) - len(missing),
                    scored=scored,
                    missing=[sample for sample in missing if sample not in reasons],
                    failed=[sample for sample in missing if sample in reasons],
                )


def failure_groups(gallery: Gallery) -> Iterator[FailureGroup]:
    """Yield the failures, the most frequent first. A sample that has an image after all is left out."""
    found: dict[tuple[str, str, str], list[tuple[str, Failure]]] = {}
    for label, failures in gallery.inputs.failed.items():
        drawn = gallery.inputs.drawn.get(label, frozenset())
        for name, failure in sorted(failures.items()):
            if name not in drawn:
                found.setdefault((label, failure.stage, failure.error), []).append((name, failure))
    for (label, _, _), members in sorted(found.items(), key=lambda group: -len(group[1])):
        yield FailureGroup(
            method=label,
            first=members[0][1],
            ids=[(name, gallery.address(name)) for name, _ in members],
        )


def _by_column(columns: Sequence[Column], inputs: PagesInput) -> Iterator[tuple[Column, list[Any], list[Any]]]:
    """Yield the differences of every column, and the shares of ranks by method."""
    statistics = inputs.statistics
    for column in columns:
        found = [
            table[(table["task"] == column.task) & (table["metric"] == column.metric)]
            for table in (statistics.differences, statistics.ranks)
        ]
        ranks = [
            (str(method), own.sort_values("rank")["share"].tolist())
            for method, own in found[1].groupby("method", sort=False)
        ]
        if len(found[0]):
            yield column, list(found[0].itertuples(index=False)), ranks
