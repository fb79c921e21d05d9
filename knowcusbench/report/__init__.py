"""From scores to tables: `build_leaderboard` reduces, `write_report` and `render_console` show; `build_statistics` and
`write_statistics` say how firm that is; `build_agreement` and `write_agreement` compare metrics with the truth;
`write_effects` shows what methods do to everything else; `build_ablation`, `write_ablation` and
`write_ablation_figure` show what the values of a setting do."""

from knowcusbench.analysis.ablation import AblationInput, Setting, build_ablation
from knowcusbench.report.figures.ablation import write_ablation_figure
from knowcusbench.report.tables.ablation import write_ablation
from knowcusbench.analysis.agreement import build_agreement
from knowcusbench.report.tables.agreement import write_agreement
from knowcusbench.report.tables.console import render_console
from knowcusbench.analysis.effects import EffectsInput, summary
from knowcusbench.report.tables.effects import write_effects
from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.report.figures.pictures import PictureRow, picture_grid
from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.analysis.statistics import Statistics, build_statistics
from knowcusbench.report.tables.statistics import write_statistics
from knowcusbench.report.tables.tables import write_csv, write_report
from knowcusbench.analysis.types import Leaderboard, MetricHeading, ReportInput

__all__ = [
    "AblationInput",
    "EffectsInput",
    "Leaderboard",
    "MetricHeading",
    "PictureRow",
    "PublishedTable",
    "ReportInput",
    "Setting",
    "Statistics",
    "build_ablation",
    "build_agreement",
    "build_leaderboard",
    "build_statistics",
    "load_published",
    "picture_grid",
    "render_console",
    "summary",
    "write_ablation",
    "write_ablation_figure",
    "write_agreement",
    "write_csv",
    "write_effects",
    "write_report",
    "write_statistics",
]
