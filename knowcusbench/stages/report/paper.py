"""The part of a run for a paper: a chosen table, chosen figures, and a document that shows all tables."""

from knowcusbench.analysis.columns import COSTS
from knowcusbench.analysis.pareto import pareto_table
from knowcusbench.analysis.selection import chosen
from knowcusbench.analysis.types import Leaderboard, RowKind
from knowcusbench.report import write_csv, write_report
from knowcusbench.report.figures.pareto import pareto_figure
from knowcusbench.report.figures.pictures_print import picture_figure
from knowcusbench.report.figures.style import write_figure
from knowcusbench.report.tables.latex import render_document
from knowcusbench.run.run import Run
from knowcusbench.stages.report.examples import picture_rows
from knowcusbench.storage.files import remove, write_atomic
from knowcusbench.storage.names import matching

TABLES = ("paper/table", "leaderboard", "agreement", "effects", "ablation")
"""Tables and figures that `document.tex` shows if they exist."""
FIGURES = ("paper/pictures", "paper/pareto", "ablation")
"""What `document.tex` shows, as far as it is there."""

DPI = 300
"""Resolution of the paper's figures in dots per inch."""


def write_paper(run: Run, board: Leaderboard) -> Leaderboard:
    """Write `report/paper/` and `report/document.tex`, and return the chosen table.

    Raises ConfigError for chosen rows that do not exist.
    """
    table = chosen(board, run.paper.table)
    directory = run.store.report / "paper"
    write_report(directory, table, "table")
    _write_pareto(run, board, table)
    own = [row.label for row in table.rows if row.kind in (RowKind.METHOD, RowKind.CONTROL)]
    names = [concept.name for concept in run.concepts]
    concepts = None if run.paper.concepts is None else matching(run.paper.concepts, names, "report.concepts")
    write_figure(directory, "pictures", picture_figure(*picture_rows(run, own, concepts)), DPI)
    tables = [name for name in TABLES if (run.store.report / f"{name}.tex").exists()]
    figures = [f"{name}.pdf" for name in FIGURES if (run.store.report / f"{name}.pdf").exists()]
    write_atomic(run.store.report / "document.tex", render_document(tables, figures).encode())
    return table


def _write_pareto(run: Run, board: Leaderboard, table: Leaderboard) -> None:
    """Write quality against cost for the rows and scores of `table`, unrounded; write nothing if no cost is known."""
    labels, keys = {row.label for row in table.rows}, {column.key for column in table.columns}
    cost = next(cost.column for cost in COSTS if cost.column.key == run.paper.cost)
    points = pareto_table(board, cost)
    points = points[points["label"].isin(labels) & points["column"].isin(keys)]
    directory = run.store.report / "paper"
    if points.empty:
        for kind in ("csv", "png", "pdf"):
            remove(directory / f"pareto.{kind}")
        return
    write_csv(directory / "pareto.csv", points)
    write_figure(directory, "pareto", pareto_figure(board, cost, points), DPI)
