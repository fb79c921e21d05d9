import math

import numpy as np
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from knowcusbench.analysis.columns import COSTS
from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.pareto import pareto_front, pareto_table
from knowcusbench.report.figures.pareto import pareto_figure
from knowcusbench.report.figures.style import write_figure

TRAIN = COSTS[0].column


@pytest.fixture
def board(report_input):
    scores = {
        "cheap": {"clip_i": 0.5},
        "worse": {"clip_i": 0.4},
        "dear $x$ $": {"clip_i": 0.9},
        "_waste": {"clip_i": 0.8},
        "base": {"clip_i": 0.95},
        "unscored": {},
    }
    inputs = report_input(scores)
    costs = inputs.costs.assign(seconds=[1.0, 2.0, 10.0, 20.0, 0.0, 1.0])
    return build_leaderboard(report_input(scores, costs=costs))


@pytest.mark.parametrize("higher", [True, False])
def test_the_front_is_what_no_other_point_beats(higher):
    random = np.random.default_rng(0)
    sign = 1 if higher else -1
    for count in (1, 2, *[7] * 50, 40):
        points = [(float(cost), float(quality)) for cost, quality in random.integers(0, 8, (count, 2))]
        found = pareto_front(points, higher_is_better=higher)
        beaten = {
            place
            for place, (c, d) in enumerate(points)
            if any((a < c and sign * b >= sign * d) or (a <= c and sign * b > sign * d) for a, b in points)
        }
        assert set(found) == set(range(count)) - beaten
        assert [points[place][0] for place in found] == sorted(points[place][0] for place in found)


def test_controls_and_rows_without_numbers_are_not_on_the_front(board):
    table = pareto_table(board, TRAIN).set_index("label")
    assert table["front"].to_dict() == {
        "base": False,
        "cheap": True,
        "worse": False,
        "dear $x$ $": True,
        "_waste": False,
    }
    assert set(table["column"]) == {"generation_clip_i"}
    assert table.loc["_waste", "cost"] == 20.0


def test_without_the_cost_there_is_no_table_and_no_panel(board, report_input):
    other = next(cost.column for cost in COSTS if cost.column.key == "draw_seconds")
    costs = report_input({"a": {"clip_i": 0.5}}).costs.assign(image_seconds=math.nan)
    unknown = build_leaderboard(report_input({"a": {"clip_i": 0.5}}, costs=costs))
    table = pareto_table(unknown, other)
    assert table.empty
    assert not pareto_figure(unknown, other, table).axes


def test_the_figure_has_a_point_for_every_row_and_its_line_is_the_front(board):
    table = pareto_table(board, TRAIN)
    (axes,) = pareto_figure(board, TRAIN, table).axes
    front, *points = axes.lines
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == [(1.0, 0.5), (10.0, 0.9)]
    assert sorted(float(line.get_xdata()[0]) for line in points) == [0.0, 1.0, 2.0, 10.0, 20.0]
    assert axes.get_xlabel() == "Train (s)"


def test_a_figure_is_laid_out_once_for_both_formats_and_as_matplotlib_does_for_each(board, tmp_path, monkeypatch):
    table = pareto_table(board, TRAIN)
    pareto_figure(board, TRAIN, table).savefig(tmp_path / "theirs.png", dpi=150, metadata={})
    laid_out = []
    execute = ConstrainedLayoutEngine.execute
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda *a: laid_out.append(a) or execute(*a))
    write_figure(tmp_path, "ours", pareto_figure(board, TRAIN, table))
    assert len(laid_out) == 1
    ours, theirs = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("ours", "theirs"))
    np.testing.assert_array_equal(ours, theirs)
