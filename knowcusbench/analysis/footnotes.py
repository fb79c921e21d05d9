"""Notes below a table, as plain text; each format does its own escaping."""

from collections.abc import Iterator, Mapping, Sequence

from knowcusbench.analysis.types import Cell, Column, Leaderboard, RowKind
from knowcusbench.metrics.protocol import Reduction

DAGGER = "†"

REDUCED: Mapping[Reduction, str] = {
    Reduction.macro: "mean over the samples of a concept, then over concepts",
    Reduction.micro: "mean over all samples",
}
SPENT = (
    "Costs per concept: mean seconds of training, adapter size and seconds an image took to draw, "
    "highest peak memory of training."
)


def reading(reduction: Reduction, columns: Sequence[Column]) -> str:
    """Explain how the leaderboard's numbers were computed."""
    lower = dict.fromkeys(column.name for column in columns if column.task and not column.higher_is_better)
    direction = f"lower is better in {', '.join(lower)}, higher in all others" if lower else "higher is better"
    return f"Scores: {REDUCED[reduction]}; {direction}. {SPENT}"


def footnotes(board: Leaderboard) -> list[str]:
    """Return how to read the table, its gaps, the source of published numbers, and notes on scores."""
    incomplete = [line for row in board.rows if (line := gaps(row.title, board.columns, row.cells))]
    gone = [
        f"{row.title}: {row.gone:,} images are missing from the run directory; `knowcusbench bench` draws them. "
        "Their scores are kept from before."
        for row in board.rows
        if row.gone
    ]
    altered = [
        f"{row.title}: {row.altered:,} images are not those that were scored, but damaged or made anew; "
        "`knowcusbench score` scores what is there, and names what it can't read."
        for row in board.rows
        if row.altered
    ]
    return [board.reading, *incomplete, *gone, *altered, *_sources(board), *board.remarks]


def dagger(cell: Cell) -> str:
    """Return the mark of a mean over an incomplete set."""
    return "" if cell.complete else DAGGER


def coverage(cell: Cell) -> str:
    """Return the coverage of a mean: "873 of 875 samples"."""
    return f"{cell.n:,} of {cell.expected:,} {cell.counted}"


def gaps(title: str, columns: Sequence[Column], cells: Sequence[Cell]) -> str:
    """Describe the gaps of a row; empty if there are none. Columns with the same gap are named together."""
    found: dict[str, list[Column]] = {}
    for column, cell in zip(columns, cells, strict=True):
        if not cell.complete:
            found.setdefault(coverage(cell), []).append(column)
    listed = (f"{gap} in {', '.join(column.title for column in among)}" for gap, among in found.items())
    return f"{DAGGER} {title}: {'; '.join(listed)}." if found else ""


def _sources(board: Leaderboard) -> Iterator[str]:
    sources = dict.fromkeys(row.source for row in board.rows if row.kind is RowKind.PUBLISHED)
    for source in sources:
        yield (
            f"Published: {source}; made with its own backbone, samples and protocol, "
            "so not comparable with the rows above."
        )
