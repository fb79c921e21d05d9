import re

import pandas as pd

from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.analysis.types import MetricHeading
from knowcusbench.benchmark.types import Task
from knowcusbench.report import render_console

IMAGE = {"clip_i": "CLIP-I", "clip_i_seg": "CLIP-I-Seg"}
PAPER = {
    **{metric: MetricHeading(title=title, tasks=frozenset(Task)) for metric, title in IMAGE.items()},
    "clip_t": MetricHeading(title="CLIP-T", tasks=frozenset({Task.GENERATION})),
    "pickscore": MetricHeading(title="PickScore", tasks=frozenset({Task.GENERATION}), decimals=2),
}


def test_a_table_with_room_is_one_block_and_one_without_has_a_block_for_each_task(report_input):
    values = {"mokus,recipe.rank=8": dict.fromkeys(PAPER, 0.5), "naive_db": dict.fromkeys(PAPER, 0.25)}
    generation = report_input(values).expected
    inputs = report_input(
        values,
        metrics=PAPER,
        expected=pd.concat([generation, generation.assign(task="reconstruction")]),
        published=load_published(PublishedTable.MAIN),
    )
    board = build_leaderboard(inputs)
    wide = render_console(board, 160).splitlines()
    assert sum(line.startswith("naive_db ") for line in wide) == 1
    narrow = render_console(board).splitlines()
    assert max(map(len, narrow)) <= 100
    headings = [line.split()[0] for line in narrow if re.match(r" +\S", line) and "(" not in line.split()[0]]
    assert [word for word in headings if word in ("Recon.", "Gen.", "Train")] == ["Recon.", "Gen.", "Train"]
    assert sum(line.startswith("naive_db ") for line in narrow) == 2  # made-up rows have no cost
    assert sum(line.startswith("Naive-DB (published)") for line in narrow) == 3
    assert not any(line.rstrip().endswith("\\") for line in narrow)


def test_more_columns_than_fit_go_on_below_with_the_labels(report_input):
    metrics = {f"m{n}": MetricHeading(title=f"Metric {n}", tasks=frozenset(Task)) for n in range(12)}
    board = build_leaderboard(report_input({"naive_db": dict.fromkeys(metrics, 0.5)}, metrics=metrics))
    lines = render_console(board).splitlines()
    assert max(map(len, lines)) <= 100
    blocks = [line for line in lines if line.startswith("naive_db ")]
    assert len(blocks) >= 2
    assert sum(block.count("0.500") for block in blocks) == 12


def test_points_stand_in_one_line_whatever_the_signs(report_input):
    values = {"a": 0.5, "b": 0.25, "c": 0.125}
    board = build_leaderboard(report_input({label: {"clip_i": value} for label, value in values.items()}))
    lines = [line for line in render_console(board).splitlines() if re.match(r"[abc] ", line)]
    assert ["0.500*" in lines[0], "0.250+" in lines[1], "0.125 " in lines[2]] == [True] * 3
    assert len({line.index("0.") for line in lines}) == 1
