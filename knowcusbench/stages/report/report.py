"""The report stage: all methods of the run directory in one leaderboard, and metrics against the truth."""

from knowcusbench.analysis.ablation import build_ablation
from knowcusbench.analysis.agreement import build_agreement
from knowcusbench.analysis.effects import summary
from knowcusbench.analysis.statistics import build_statistics
from knowcusbench.machine.progress import Progress, show
from knowcusbench.report import (
    picture_grid,
    render_console,
    write_ablation,
    write_ablation_figure,
    write_agreement,
    write_csv,
    write_effects,
    write_report,
    write_statistics,
)
from knowcusbench.report.pages import write_html
from knowcusbench.run.results import Results
from knowcusbench.run.run import Run
from knowcusbench.stages.report.examples import picture_rows
from knowcusbench.stages.report.pages import pages_input
from knowcusbench.stages.report.paper import write_paper
from knowcusbench.storage.files import atomic_path
from knowcusbench.storage.tables import writing


def report(run: Run) -> None:
    """Write the tables and pages of the run, and print the leaderboard."""
    results = Results.of(run)
    inputs, board = results.report_input, results.board
    statistics, agreement, ablation = build_statistics(inputs), build_agreement(inputs), None
    with writing(), Progress("report"):
        write_report(run.store.report, board)
        write_statistics(run.store.report, board, statistics)
        write_csv(run.store.report / "costs.csv", results.stage_costs)
        write_agreement(run.store.report, agreement)
        grid = picture_grid(*picture_rows(run))
        with atomic_path(run.store.report / "pictures.png") as temporary:
            grid.save(temporary, format="PNG")
        measured = results.effects_input(run)
        effects = write_effects(run.store.report, measured) if measured else None
        if compared := results.ablation_input(measured):
            ablation = build_ablation(compared)
            write_ablation(run.store.report, ablation)
            write_ablation_figure(run.store.report, ablation)
        pages = pages_input(
            run,
            results,
            statistics,
            agreement=agreement,
            measured=measured,
            effects=effects,
            ablation=ablation,
        )
        page = write_html(run.store.report, pages)
        table = write_paper(run, board)
    show(render_console(table))
    if effects:
        show(f"\nEffects on everything else (all columns: effects.md):\n{render_console(summary(effects))}")
    show(f"\nwritten to {run.store.report}; pictures and plots: {page}")
