"""What of a run goes into a paper: a table and figures as chosen, and a document that shows all tables."""

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
FIGURES = ("paper/pictures", "paper/pareto", "ablation")
"""What `document.tex` shows, as far as it is there."""

DPI = 300


def write_paper(run: Run, board: Leaderboard) -> Leaderboard:
    """Write `report/paper/` and `report/document.tex`, and return the table as chosen.

    Raises ConfigError for rows that are not there.
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
    """Quality against cost, of the rows and scores of `table` with every digit; nothing if there is no cost."""
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
