"""An ablation as CSV, Markdown and LaTeX."""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from knowcusbench.analysis.ablation import Ablation
from knowcusbench.analysis.columns import number
from knowcusbench.analysis.footnotes import dagger, gaps
from knowcusbench.analysis.leaderboard import mean_cell
from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.analysis.reduction import Mean
from knowcusbench.analysis.types import Cell, Counted
from knowcusbench.benchmark.types import Task
from knowcusbench.report.tables.latex import environment, escape_latex
from knowcusbench.report.tables.markdown import escape_markdown, table_line
from knowcusbench.report.tables.tables import Renderers, write_formats

READING = (
    "Mean ± standard deviation over concepts, each concept the mean over its samples; the values of every concept are "
    "in ablation.csv."
)
TAUGHT = "Only samples of the knowledge items taught to the method count."

PUBLISHED = {"eta": PublishedTable.ETA, "items": PublishedTable.KNOWLEDGE_ITEMS}
"""Published tables of the same setting, by the name of the ablation."""


def render_ablation_csv(ablation: Ablation) -> str:
    """Return a line per method, concept and column, with every digit."""
    return ablation.per_concept.to_csv(index=False, lineterminator="\n")


def render_ablation_markdown(ablation: Ablation) -> str:
    """Return a row per value of the setting, controls below, and how to read it."""
    lines = [
        table_line([escape_markdown(ablation.title), *(escape_markdown(column.title) for column in ablation.columns)]),
        table_line([":--", *("--:" for _ in ablation.columns)]),
        *(table_line([escape_markdown(title), *cells]) for title, cells in _rows(ablation)),
    ]
    notes = [f"- {escape_markdown(note)}" for note in reading(ablation)]
    return "\n".join([f"# Ablation: {escape_markdown(ablation.title)}", "", *lines, "", *notes, ""])


def render_ablation_latex(ablation: Ablation) -> str:
    """Return a `tabular`; it needs `booktabs`."""
    return (
        environment()
        .get_template("ablation.tex.jinja")
        .render(
            ablation=ablation,
            rows=[(title, list(map(_latex, cells))) for title, cells in _rows(ablation)],
            reading=list(map(_latex, reading(ablation))),
        )
    )


def _latex(text: str) -> str:
    numbers = re.sub(r"(?<!\w)-(?=\d)", "$-$", escape_latex(text))
    return numbers.replace("±", r"$\pm$")


def reading(ablation: Ablation) -> list[str]:
    """Explain the table, list values that lack concepts that others have, and quote published ones."""
    lines = [READING, TAUGHT] if any(setting.taught for setting in ablation.settings) else [READING]
    missing = (gaps(title, ablation.columns, _cells(ablation, label)) for label, title in _titles(ablation))
    return [*lines, *(line for line in missing if line), *_published(ablation)]


def _published(ablation: Ablation) -> Iterator[str]:
    """Quote what was published of the ablation's columns; a score whose task is not stated has its metric's name."""
    titles: dict[tuple[Task | None, str], str] = {(None, column.metric): column.name for column in ablation.columns}
    titles |= {(column.task, column.metric): column.title for column in ablation.columns}
    values = load_published(PUBLISHED[ablation.name]) if ablation.name in PUBLISHED else ()
    known = [value for value in values if (value.task, value.metric) in titles]
    for source, of_source in groupby(known, key=lambda value: value.source):
        parts = [
            f"{condition.partition('=')[2]}: "
            + ", ".join(f"{titles[value.task, value.metric]} {value.value:g}" for value in own)
            for condition, own in groupby(of_source, key=lambda value: value.condition)
        ]
        yield f"Published ({source}), by value: {'; '.join(parts)}."


def _titles(ablation: Ablation) -> Iterator[tuple[str, str]]:
    """Yield the labels of the rows, and their titles."""
    for setting in ablation.settings:
        yield setting.label, shown_value(setting.value)
    for label in ablation.controls:
        yield label, f"{label} (control)"


def _cells(ablation: Ablation, label: str) -> list[Cell]:
    """Return the means of a row. A concept is expected if any row has it in the column."""
    own = ablation.summary[ablation.summary["label"] == label].set_index("column")
    expected = ablation.summary.groupby("column")["concepts"].max()
    return [
        mean_cell(
            Mean(float(own["mean"][column.key]), int(own["concepts"][column.key])),
            int(expected[column.key]),
            Counted.CONCEPTS,
        )
        if column.key in own.index and own["concepts"][column.key]
        else Cell()
        for column in ablation.columns
    ]


def _rows(ablation: Ablation) -> Iterator[tuple[str, list[str]]]:
    deviations = ablation.summary.set_index(["label", "column"])["deviation"]
    for label, title in _titles(ablation):
        cells = []
        for column, cell in zip(ablation.columns, _cells(ablation, label), strict=True):
            shown = number(column, cell)
            if cell.n > 1:
                shown += f" ± {deviations[label, column.key]:.{column.decimals}f}"
            cells.append(shown + dagger(cell))
        yield title, cells


def shown_value(value: float | str) -> str:
    """Format a value of the setting: 1e-06, 5, late."""
    return value if isinstance(value, str) else f"{value:g}"


RENDERERS: Renderers[Ablation] = {
    "csv": render_ablation_csv,
    "md": render_ablation_markdown,
    "tex": render_ablation_latex,
}


def write_ablation(directory: Path, ablation: Ablation) -> list[Path]:
    """Write the table in every format to `directory`, replacing earlier ones, and return the paths."""
    return write_formats(directory, "ablation", RENDERERS, ablation)
