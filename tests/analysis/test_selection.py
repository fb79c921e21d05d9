import json

import pandas as pd
import pytest

from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.analysis.selection import Choice, chosen, column_keys, matching
from knowcusbench.analysis.types import Mark
from knowcusbench.errors import ConfigError
from knowcusbench.report.tables.csv_json import render_csv, render_json

THREE = {
    "naive_db": {"clip_i": 0.8004, "clip_t": 0.29, "pickscore": 0.8},
    "mokus": {"clip_i": 0.7996, "clip_t": 0.31, "pickscore": 21.3},
    "a [b]": {"clip_i": 0.9, "clip_t": -0.00001, "pickscore": 18.3},
    "base": {"clip_i": 0.99, "clip_t": 0.99, "pickscore": 99.0},
}


@pytest.fixture
def board(report_input):
    return build_leaderboard(report_input(THREE, published=load_published(PublishedTable.MAIN)))


def keys(board):
    return [column.key for column in board.columns]


def labels(board):
    return [row.label for row in board.rows]


def test_nothing_chosen_is_the_leaderboard_but_for_digits_that_are_not_shown(board):
    table = chosen(board, Choice())
    assert (keys(table), labels(table), table.reading) == (keys(board), labels(board), board.reading)
    assert [cell.mark for row in table.rows for cell in row.cells] == [c.mark for row in board.rows for c in row.cells]


def test_columns_come_in_the_order_of_their_patterns_by_key_metric_or_glob(board):
    assert keys(chosen(board, Choice(columns=("train_seconds", "clip_t", "generation_*")))) == [
        *("train_seconds", "generation_clip_t", "generation_clip_i", "generation_pickscore"),
    ]


def test_a_metric_names_its_columns_of_all_tasks():
    columns = [("reconstruction_clip_i", "clip_i"), ("generation_clip_i", "clip_i"), ("generation_clip_t", "clip_t")]
    assert column_keys(columns, ["clip_t", "clip_i"]) == [
        *("generation_clip_t", "reconstruction_clip_i", "generation_clip_i"),
    ]
    assert column_keys(columns, ["*clip_i"]) == ["reconstruction_clip_i", "generation_clip_i"]


def test_rows_come_in_the_order_of_their_patterns_and_each_once(board):
    assert labels(chosen(board, Choice(rows=("mokus", "a [b]", "real*", "*")))) == [
        *("mokus", "a [b]", "real images", "base", "naive_db", "Naive-DB", "Enc-FT", "MoKus"),
    ]


def test_best_and_second_are_those_of_the_chosen_rows_and_digits(board):
    table = chosen(board, Choice(rows=("naive_db", "mokus"), columns=("clip_i", "clip_t"), precision=2))
    assert [[cell.mark for cell in row.cells] for row in table.rows] == [[None, Mark.SECOND], [None, Mark.BEST]]


def test_percent_is_of_fractions_and_says_so(board):
    table = chosen(board, Choice(percent=True, rows=("naive_db", "a [b]", "MoKus")))
    csv = pd.read_csv(pd.io.common.StringIO(render_csv(table)), index_col="label")
    assert csv["generation_clip_i"].to_dict() == {"naive_db": 80.0, "a [b]": 90.0, "MoKus": 76.1}
    assert csv["generation_pickscore"].to_dict() == {"naive_db": 0.8, "a [b]": 18.3, "MoKus": 21.3}
    assert csv["train_seconds"].to_dict() == {"naive_db": 10.0, "a [b]": 10.0, "MoKus": 360.0}
    assert "-0.0" not in render_csv(table).replace("-0.001", "")
    assert table.reading.endswith("In percent: CLIP-I, CLIP-T.")


def test_a_metric_beyond_one_is_not_shown_in_percent(report_input):
    scores = {"a": {"clip_i": 0.5, "clip_t": 1.5}, "b": {"clip_i": 0.25, "clip_t": 0.5}}
    table = chosen(build_leaderboard(report_input(scores)), Choice(percent=True))
    assert [cell.value for cell in table.rows[1].cells[:2]] == [25.0, 0.5]


def test_precision_rounds_in_every_format(board):
    table = chosen(board, Choice(precision=2, columns=("clip_i",), rows=("naive_db",)))
    cells = json.loads(render_json(table))["rows"][0]["cells"]
    assert cells["generation_clip_i"]["value"] == 0.8
    assert table.columns[0].decimals == 2


def test_only_shown_metrics_have_protocols_and_remarks(report_input):
    inputs = report_input(THREE)
    board = build_leaderboard(report_input(THREE, scores=inputs.scores.assign(note="odd")))
    table = chosen(board, Choice(columns=("clip_t",)))
    assert set(table.protocols) == {"clip_t"}
    (remark,) = table.remarks
    assert remark.startswith("CLIP-T: ")


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (Choice(columns=("clip_j",)), "report.columns: 'clip_j' is not there; did you mean 'clip_."),
        (Choice(columns=("reconstruction_*",)), r"report.columns: 'reconstruction_\*' is not there"),
        (Choice(rows=("mokkus",)), "report.rows: 'mokkus' is not there; did you mean 'mokus'"),
        (Choice(precision=-1), "report.precision: expected 0 to 10 digits, found -1"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(board, choice, said):
    with pytest.raises(ConfigError, match=said):
        chosen(board, choice)


def test_rows_that_are_still_to_come_are_passed_over(board):
    assert labels(chosen(board, Choice(rows=("later", "mokus"), partial=True))) == ["mokus"]


def test_a_name_stands_for_itself_before_it_is_a_glob():
    assert matching(["a[b]"], ["ab", "a[b]"], "key") == ["a[b]"]
    assert matching(["a[b]"], ["ab"], "key") == ["ab"]
