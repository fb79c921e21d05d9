import re

import pandas as pd

from knowcusbench.benchmark.types import Task
from knowcusbench.report import (
    MetricHeading,
    PublishedTable,
    build_leaderboard,
    load_published,
    render_console,
)

IMAGE = {"clip_i": "CLIP-I", "clip_i_seg": "CLIP-I-Seg"}
PAPER = {
    **{metric: MetricHeading(title=title, tasks=frozenset(Task)) for metric, title in IMAGE.items()},
    "clip_t": MetricHeading(title="CLIP-T", tasks=frozenset({Task.GENERATION})),
    "pickscore": MetricHeading(title="PickScore", tasks=frozenset({Task.GENERATION})),
}


def test_the_paper_s_columns_fit_in_one_block_of_120_characters(report_input):
    values = {"mokus,recipe.rank=8": dict.fromkeys(PAPER, 0.5), "naive_db": dict.fromkeys(PAPER, 0.25)}
    generation = report_input(values).expected
    inputs = report_input(
        values,
        metrics=PAPER,
        expected=pd.concat([generation, generation.assign(task="reconstruction")]),
        published=load_published(PublishedTable.MAIN),
    )
    lines = render_console(build_leaderboard(inputs)).splitlines()
    assert max(map(len, lines)) <= 120
    assert sum(line.startswith("naive_db ") for line in lines) == 1


def test_more_columns_than_fit_go_on_below_with_the_labels(report_input):
    metrics = {f"m{n}": MetricHeading(title=f"Metric {n}", tasks=frozenset(Task)) for n in range(12)}
    board = build_leaderboard(report_input({"naive_db": dict.fromkeys(metrics, 0.5)}, metrics=metrics))
    lines = render_console(board).splitlines()
    assert max(map(len, lines)) <= 120
    blocks = [line for line in lines if line.startswith("naive_db ")]
    assert len(blocks) == 2
    assert sum(block.count("0.500") for block in blocks) == 12


def test_points_stand_in_one_line_whatever_the_signs(report_input):
    values = {"a": 0.5, "b": 0.25, "c": 0.125}
    board = build_leaderboard(report_input({label: {"clip_i": value} for label, value in values.items()}))
    lines = [line for line in render_console(board).splitlines() if re.match(r"[abc] ", line)]
    assert ["0.500*" in lines[0], "0.250+" in lines[1], "0.125 " in lines[2]] == [True] * 3
    assert len({line.index("0.") for line in lines}) == 1
