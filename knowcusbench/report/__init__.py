"""From scores to tables: `build_leaderboard` reduces, `write_report` and `render_console` show."""

from knowcusbench.report.console import render_console
from knowcusbench.report.leaderboard import build_leaderboard
from knowcusbench.report.published import PublishedTable, load_published
from knowcusbench.report.tables import write_report
from knowcusbench.report.types import Leaderboard, MetricHeading, ReportInput

__all__ = [
    "Leaderboard",
    "MetricHeading",
    "PublishedTable",
    "ReportInput",
    "build_leaderboard",
    "load_published",
    "render_console",
    "write_report",
]
