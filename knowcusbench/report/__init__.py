"""From scores to tables: `build_leaderboard` reduces, `write_report` and `render_console` show; `build_statistics` and
`write_statistics` say how firm that is; `build_agreement` and `write_agreement` compare metrics with the truth;
`write_effects` shows what methods do to everything else; `build_ablation`, `write_ablation` and
`write_ablation_figure` show what the values of a setting do."""

from knowcusbench.report.ablation import AblationInput, Setting, build_ablation
from knowcusbench.report.ablation_plot import write_ablation_figure
from knowcusbench.report.ablation_tables import write_ablation
from knowcusbench.report.agreement import build_agreement
from knowcusbench.report.agreement_tables import write_agreement
from knowcusbench.report.console import render_console
from knowcusbench.report.effects import EffectsInput, summary
from knowcusbench.report.effects_tables import write_effects
from knowcusbench.report.leaderboard import build_leaderboard
from knowcusbench.report.pictures import PictureRow, picture_grid
from knowcusbench.report.published import PublishedTable, load_published
from knowcusbench.report.statistics import Statistics, build_statistics
from knowcusbench.report.statistics_tables import write_statistics
from knowcusbench.report.tables import write_csv, write_report
from knowcusbench.report.types import Leaderboard, MetricHeading, ReportInput

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
