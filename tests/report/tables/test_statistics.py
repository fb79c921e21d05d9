import pandas as pd
import pytest

from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.analysis.statistics import build_statistics
from knowcusbench.analysis.types import MetricHeading
from knowcusbench.benchmark.types import Task
from knowcusbench.report import write_statistics

SCORES = {
    "a|b": {"cat": 0.5, "dog": 0.75, "owl": 0.625, "hat": 0.5},
    "c": {"cat": 0.25, "dog": 0.5, "owl": 0.5, "hat": 0.125},
    "base": {"cat": 0.125, "dog": 0.25, "owl": 0.125, "hat": 0.25},
}


@pytest.fixture
def inputs(report_input, score_table):
    rows = [
        (label, "generation", concept, "clip_t", value)
        for label, own in SCORES.items()
        for concept, value in own.items()
    ]
    scores = score_table(rows).assign(sample_id=[concept for own in SCORES.values() for concept in own])
    return report_input(
        {label: {} for label in SCORES},
        scores=scores,
        metrics={"clip_t": MetricHeading(title="CLIP-T", tasks=frozenset({Task.GENERATION}))},
        concepts=4,
        expected=pd.DataFrame({"method": list(SCORES), "task": "generation", "planned": 4}),
        published=load_published(PublishedTable.MAIN),
    )


@pytest.fixture
def page(inputs, tmp_path):
    write_statistics(tmp_path, build_leaderboard(inputs), build_statistics(inputs))
    return (tmp_path / "statistics.md").read_text()


def test_means_stand_with_their_intervals_and_published_rows_are_left_out(page, inputs):
    board = build_leaderboard(inputs)
    base, cell = next((row.label, row.cells[0]) for row in board.rows if row.label == "base")
    assert f"| {base} (control) | {cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}] |" in page
    assert cell.low < cell.value < cell.high
    assert "| real images (ceiling) | – |" in page
    assert "MoKus" not in page


def test_differences_have_a_sign_an_interval_and_both_p_values(page):
    """Exactly: all four concepts differ in one direction, 2 of 16 flips reach that."""
    line = next(line for line in page.splitlines() if r"| a\|b | c |" in line)
    assert line.startswith(r"| Gen. CLIP-T | a\|b | c | +0.250 [+0.")
    assert line.endswith("| 0.1250 | 0.1250 | 4 | 4 |")


def test_ranks_have_a_column_each(page):
    assert r"| Gen. CLIP-T | a\|b | 1.00 | 0.00 | 1.00 | 4 | 4 |" in page
    assert "| Gen. CLIP-T | c | 0.00 | 1.00 | 1.00 | 4 | 4 |" in page


def test_csv_keeps_every_digit(inputs, tmp_path):
    statistics = build_statistics(inputs)
    paths = write_statistics(tmp_path, build_leaderboard(inputs), statistics)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    for name in ("differences", "breakdown", "ranks"):
        read = pd.read_csv(tmp_path / f"{name}.csv", float_precision="round_trip")
        pd.testing.assert_frame_equal(read, getattr(statistics, name), check_dtype=False, check_exact=True)


def test_sections_without_rows_are_left_out(report_input, tmp_path):
    inputs = report_input({"only": {"clip_i": 0.5}})
    write_statistics(tmp_path, build_leaderboard(inputs), build_statistics(inputs))
    page = (tmp_path / "statistics.md").read_text()
    assert "| only | 0.500 |" in page
    assert "## Means" in page
    assert "## Differences" not in page
    assert "## Ranks" not in page
