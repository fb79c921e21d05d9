"""The files of the report."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from knowcusbench.analysis.types import Leaderboard
from knowcusbench.report.tables.csv_json import render_csv, render_json
from knowcusbench.report.tables.latex import render_latex
from knowcusbench.report.tables.markdown import render_markdown
from knowcusbench.storage.files import write_atomic

RENDERERS: dict[str, Callable[[Leaderboard], str]] = {
    "csv": render_csv,
    "json": render_json,
    "md": render_markdown,
    "tex": render_latex,
}


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table with every digit; unknown values are empty."""
    write_atomic(path, table.to_csv(index=False, lineterminator="\n").encode())


def write_report(directory: Path, board: Leaderboard, name: str = "leaderboard") -> list[Path]:
    """Write the table in every format to `directory`, replacing earlier ones, and return the paths."""
    written = []
    for suffix, render in RENDERERS.items():
        path = directory / f"{name}.{suffix}"
        write_atomic(path, render(board).encode())
        written.append(path)
    return written
