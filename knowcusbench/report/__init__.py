"""Leaderboards, statistics and figures as files and on the console."""

from knowcusbench.report.figures.ablation import write_ablation_figure
from knowcusbench.report.figures.pictures import PictureRow, picture_grid
from knowcusbench.report.tables.ablation import write_ablation
from knowcusbench.report.tables.agreement import write_agreement
from knowcusbench.report.tables.console import render_console
from knowcusbench.report.tables.effects import write_effects
from knowcusbench.report.tables.statistics import write_statistics
from knowcusbench.report.tables.tables import write_by_backbone, write_csv, write_report

__all__ = [
    "PictureRow",
    "picture_grid",
    "render_console",
    "write_ablation",
    "write_ablation_figure",
    "write_agreement",
    "write_by_backbone",
    "write_csv",
    "write_effects",
    "write_report",
    "write_statistics",
]
