"""From scores to tables: `build_leaderboard` reduces, `write_report` and `render_console` show; `build_agreement` and
`write_agreement` compare metrics with the truth; `write_effects` shows what methods do to everything else."""

from knowcusbench.report.agreement import build_agreement
from knowcusbench.report.agreement_tables import write_agreement
from knowcusbench.report.console import render_console
from knowcusbench.report.effects import EffectsInput, summary
from knowcusbench.report.effects_tables import write_effects
from knowcusbench.report.leaderboard import build_leaderboard
from knowcusbench.report.pictures import PictureRow, picture_grid
from knowcusbench.report.published import PublishedTable, load_published
from knowcusbench.report.tables import write_report
from knowcusbench.report.types import Leaderboard, MetricHeading, ReportInput

__all__ = [
    "EffectsInput",
    "Leaderboard",
    "MetricHeading",
    "PictureRow",
    "PublishedTable",
    "ReportInput",
    "build_agreement",
    "build_leaderboard",
    "load_published",
    "picture_grid",
    "render_console",
    "summary",
    "write_agreement",
    "write_effects",
    "write_report",
]
