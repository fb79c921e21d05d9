"""An ablation as CSV, Markdown and LaTeX."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from knowcusbench.files import write_atomic
from knowcusbench.report.ablation import Ablation
from knowcusbench.report.columns import MISSING
from knowcusbench.report.latex import environment, escape_latex
from knowcusbench.report.markdown import escape_markdown, table_line

READING = (
    "Mean ± standard deviation over concepts, each concept the mean over its samples; the values of every concept are "
    "in ablation.csv."
)
TAUGHT = "Only samples of knowledge items that the method was taught count."


def render_ablation_csv(ablation: Ablation) -> str:
    """A line per method, concept and column, with every digit."""
    return ablation.per_concept.to_csv(index=False, lineterminator="\n")


def render_ablation_markdown(ablation: Ablation) -> str:
    """A row per value of the setting, controls below, and how to read it."""
    lines = [
        table_line([escape_markdown(ablation.title), *(escape_markdown(column.title) for column in ablation.columns)]),
        table_line([":--", *("--:" for _ in ablation.columns)]),
        *(table_line([escape_markdown(title), *cells]) for title, cells in _rows(ablation)),
    ]
    notes = [f"- {escape_markdown(note)}" for note in reading(ablation)]
    return "\n".join([f"# Ablation: {escape_markdown(ablation.title)}", "", *lines, "", *notes, ""])


def render_ablation_latex(ablation: Ablation) -> str:
    """A `tabular`; needs `booktabs`."""
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
    """How to read the table."""
    return [READING, TAUGHT] if any(setting.taught for setting in ablation.settings) else [READING]


def _rows(ablation: Ablation) -> Iterator[tuple[str, list[str]]]:
    found = {(row.label, row.column): row for row in ablation.summary.itertuples()}
    labels = [(setting.label, shown_value(setting.value)) for setting in ablation.settings]
    for label, title in [*labels, *((label, f"{label} (control)") for label in ablation.controls)]:
        cells = []
        for column in ablation.columns:
            row = found.get((label, column.key))
            if row is None or not row.concepts:
                cells.append(MISSING)
            elif row.concepts == 1:
                cells.append(f"{row.mean:z.{column.decimals}f}")
            else:
                cells.append(f"{row.mean:z.{column.decimals}f} ± {row.deviation:.{column.decimals}f}")
        yield title, cells


def shown_value(value: float | str) -> str:
    """A value of the setting for people: 1e-06, 5, late."""
    return value if isinstance(value, str) else f"{value:g}"


RENDERERS: dict[str, Callable[[Ablation], str]] = {
    "ablation.csv": render_ablation_csv,
    "ablation.md": render_ablation_markdown,
    "ablation.tex": render_ablation_latex,
}


def write_ablation(directory: Path, ablation: Ablation) -> list[Path]:
    """Write the table in every format to `directory`, replacing earlier ones, and return the paths."""
    paths = []
    for name, render in RENDERERS.items():
        path = directory / name
        write_atomic(path, render(ablation).encode())
        paths.append(path)
    return paths
