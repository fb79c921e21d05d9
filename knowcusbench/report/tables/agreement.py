"""The agreement of metrics with the truth as CSV, Markdown and LaTeX."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from knowcusbench.analysis.agreement import Agreement, Correlation
from knowcusbench.analysis.columns import MISSING, TASK_GROUPS
from knowcusbench.report.tables.latex import environment, escape_latex
from knowcusbench.report.tables.markdown import escape_markdown, table_line
from knowcusbench.report.tables.tables import Renderers, write_formats

READING = (
    "Rank correlation of each metric with the truth: Spearman's ρ and Kendall's τ (tau-b), from -1 to 1. "
    "Over methods: the n methods and controls whose samples all have both scores, by their means of the leaderboard. "
    "Over samples: all n images that have both scores, of all methods together. "
    f"{MISSING}: undefined, since there are fewer than three pairs or one side is constant."
)

Rows = Sequence[Agreement]


def render_agreement_csv(rows: Rows) -> str:
    """Return a line per truth, task and metric, with every digit; undefined values are empty."""
    return pd.DataFrame([_record(row) for row in rows]).to_csv(index=False, lineterminator="\n")


def _record(row: Agreement) -> dict[str, str | float | None]:
    return {
        "truth": row.truth,
        "task": row.task.value,
        "metric": row.metric,
        "methods": row.methods.n,
        "methods_spearman": row.methods.spearman,
        "methods_kendall": row.methods.kendall,
        "samples": row.samples.n,
        "samples_spearman": row.samples.spearman,
        "samples_kendall": row.samples.kendall,
    }


def render_agreement_markdown(rows: Rows) -> str:
    """Return one table, and how to read it."""
    heads = [
        *("Truth", "Task", "Metric"),
        *(f"{over} {sign}" for over in ("Methods", "Samples") for sign in ("n", "ρ", "τ")),
    ]
    lines = [
        table_line(heads),
        table_line([*[":--"] * 3, *["--:"] * 6]),
        *(table_line([*map(escape_markdown, _names(row)), *_numbers(row)]) for row in rows),
    ]
    return "\n".join(["# Agreement of metrics with the truth", "", *lines, "", f"- {escape_markdown(READING)}", ""])


def render_agreement_latex(rows: Rows) -> str:
    """Return a `tabular` with a section per truth and task; it needs `booktabs`."""
    return (
        environment()
        .get_template("agreement.tex.jinja")
        .render(
            sections=[(title, list(members)) for title, members in groupby(rows, key=_section)],
            cells=lambda row: [escape_latex(number).replace("-", "$-$") for number in _numbers(row)],
            reading=READING,
        )
    )


def _section(row: Agreement) -> str:
    return f"{TASK_GROUPS[row.task]} {row.truth_title}"


def _names(row: Agreement) -> tuple[str, str, str]:
    return row.truth_title, TASK_GROUPS[row.task], row.metric_title


def _numbers(row: Agreement) -> list[str]:
    return [text for correlation in (row.methods, row.samples) for text in _shown(correlation)]


def _shown(correlation: Correlation) -> tuple[str, str, str]:
    def number(value: float | None) -> str:
        return MISSING if value is None else f"{value:z.2f}"

    return f"{correlation.n:,}", number(correlation.spearman), number(correlation.kendall)


RENDERERS: Renderers[Rows] = {
    "csv": render_agreement_csv,
    "md": render_agreement_markdown,
    "tex": render_agreement_latex,
}


def write_agreement(directory: Path, rows: Rows) -> list[Path]:
    """Write the table in every format to `directory`, replacing earlier ones, and return the paths.

    Without rows there is no table, and earlier ones are removed.
    """
    if rows:
        return write_formats(directory, "agreement", RENDERERS, rows)
    for suffix in RENDERERS:
        (directory / f"agreement.{suffix}").unlink(missing_ok=True)
    return []
