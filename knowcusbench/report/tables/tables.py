"""The files of the report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd

from knowcusbench.analysis.leaderboard import leaderboard_frame
from knowcusbench.analysis.types import Leaderboard
from knowcusbench.report.tables.csv_json import render_csv, render_json
from knowcusbench.report.tables.latex import render_latex
from knowcusbench.report.tables.markdown import render_markdown
from knowcusbench.storage.files import write_atomic

T = TypeVar("T")

Renderers = Mapping[str, Callable[[T], str]]
"""What a table is in each format, by the suffix of its file."""

RENDERERS: Renderers[Leaderboard] = {
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
    return write_formats(directory, name, RENDERERS, board)


def write_formats(directory: Path, name: str, renderers: Renderers[T], table: T) -> list[Path]:
    """Write `<name>.<suffix>` for every format to `directory`, replacing earlier ones, and return the paths."""
    paths = []
    for suffix, render in renderers.items():
        paths.append(path := directory / f"{name}.{suffix}")
        write_atomic(path, render(table).encode())
    return paths


def write_by_backbone(directory: Path, boards: Sequence[tuple[str, Leaderboard]]) -> list[Path]:
    """Write the tables of several backbones, given with their names, and return the paths.

    Each has a directory of its own, `backbone_1` and so on; `backbones.md` and `backbones.csv` have all of them below
    each other, with best and second within each.
    """
    written = [
        path
        for place, (_, board) in enumerate(boards, start=1)
        for path in write_report(directory / f"backbone_{place}", board)
    ]
    frames = []
    for name, board in boards:
        frame = leaderboard_frame(board)
        frame.insert(0, "backbone", name)
        frames.append(frame)
    write_csv(directory / "backbones.csv", pd.concat(frames, ignore_index=True))
    page = "\n".join(render_markdown(board) for _, board in boards)
    write_atomic(directory / "backbones.md", page.encode())
    return [*written, directory / "backbones.csv", directory / "backbones.md"]
