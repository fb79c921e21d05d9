import io
import json

import pandas as pd
import pytest

from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.report import render_console, write_report
from knowcusbench.report.tables.csv_json import render_csv, render_json

VALUES = {
    "mokus|eta=1_0": {"clip_i": 1 / 3, "clip_t": 0.1 + 0.2, "pickscore": 21.3},
    '<b>a, "quoted" *label*</b>': {"clip_i": 0.5, "clip_t": -0.0001},
    "base": {"clip_i": 0.25, "clip_t": 0.5, "pickscore": 19.0},
}


@pytest.fixture
def board(report_input):
    return build_leaderboard(report_input(VALUES, published=load_published(PublishedTable.MAIN)))


def test_images_that_are_gone_are_told_on_the_console_in_csv_and_json(report_input):
    board = build_leaderboard(report_input({"mokus": {"clip_i": 0.5}, "base": {"clip_i": 0.4}}, gone={"mokus": 2}))
    line = "mokus: 2 images are missing from the run directory; `knowcusbench bench` draws them"
    assert line in " ".join(render_console(board).split())
    assert any(note.startswith(line) for note in json.loads(render_json(board))["footnotes"])
    table = pd.read_csv(io.StringIO(render_csv(board)), dtype=str).set_index("label")["incomplete"].fillna("")
    assert "images=-2" in table["mokus"]
    assert "images" not in table["base"]


def test_images_that_are_not_those_that_were_scored_are_told(report_input):
    board = build_leaderboard(report_input({"mokus": {"clip_i": 0.5}, "base": {"clip_i": 0.4}}, altered={"mokus": 1}))
    line = "mokus: 1 images are not those that were scored, but damaged or made anew; `knowcusbench score`"
    assert line in " ".join(render_console(board).split())
    assert any(note.startswith(line) for note in json.loads(render_json(board))["footnotes"])
    table = pd.read_csv(io.StringIO(render_csv(board)), dtype=str).set_index("label")["incomplete"].fillna("")
    assert "altered=1" in table["mokus"]
    assert "altered" not in table["base"]


def test_csv_and_json_give_back_every_value_to_the_last_bit(board, tmp_path):
    write_report(tmp_path, board)
    table = pd.read_csv(tmp_path / "leaderboard.csv", float_precision="round_trip")
    document = json.loads((tmp_path / "leaderboard.json").read_text())
    assert list(table["label"]) == [row.label for row in board.rows]
    assert list(table["kind"]) == [row.kind.value for row in board.rows]
    for row, line, entry in zip(board.rows, table.to_dict("records"), document["rows"], strict=True):
        for column, cell in zip(board.columns, row.cells, strict=True):
            assert entry["cells"][column.key]["value"] == cell.value
            assert line[column.key] == cell.value or (cell.value is None and pd.isna(line[column.key]))


def test_csv_and_json_say_what_is_incomplete_or_approximate(board, tmp_path):
    write_report(tmp_path, board)
    table = pd.read_csv(tmp_path / "leaderboard.csv", keep_default_na=False).set_index("label")
    document = json.loads((tmp_path / "leaderboard.json").read_text())
    cells = {row["label"]: row["cells"] for row in document["rows"]}
    label = '<b>a, "quoted" *label*</b>'
    assert table.loc[label, "incomplete"] == "generation_pickscore=0/1"
    assert (
        cells[label]["generation_pickscore"] | {"n": 0, "expected": 1, "value": None}
        == (cells[label]["generation_pickscore"])
    )
    assert table.loc["MoKus", "approximate"] == "train_seconds"
    assert cells["MoKus"]["train_seconds"]["approximate"] is True


def test_json_tells_marks_protocols_and_sources(board, tmp_path):
    write_report(tmp_path, board)
    document = json.loads((tmp_path / "leaderboard.json").read_text())
    rows = {row["label"]: row for row in document["rows"]}
    assert document["schema_version"] == 1
    assert document["run"] == "night"
    assert document["protocols"] == {"clip_i": "abc", "clip_t": "abc", "pickscore": "abc"}
    assert rows['<b>a, "quoted" *label*</b>']["cells"]["generation_clip_i"]["mark"] == "best"
    assert rows["base"]["cells"]["generation_clip_i"]["mark"] is None
    assert rows["MoKus"]["source"] == "MoKus, arXiv 2603.12743, Table 1"


def test_markdown_marks_best_and_second_and_escapes_labels(board, tmp_path):
    write_report(tmp_path, board)
    lines = (tmp_path / "leaderboard.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert r"| mokus\|eta=1\_0 | <u>0.333</u> | **0.300** | 21.30 | 10.0 | 1024 | 1.00 | 0.25 |" in table
    assert r'| \<b\>a, "quoted" \*label\*\</b\> | **0.500** | <u>0.000</u> | –† | 10.0 | 1024 | 1.00 | 0.25 |' in table
    assert "| base (control) | 0.250 | 0.500 | 19.00 | 10.0 | 1024 | 1.00 | 0.25 |" in table
    assert "| MoKus (published) | 0.761 | 0.305 | 21.30 | ≈360 | – | – | – |" in table
    unescaped_bars = {line.replace(r"\|", "").count("|") for line in table}
    assert unescaped_bars == {len(board.columns) + 2}


def test_a_report_replaces_the_one_before_and_leaves_nothing_else(board, report_input, tmp_path):
    first = write_report(tmp_path / "report", board)
    before = [path.read_bytes() for path in first]
    second = write_report(tmp_path / "report", build_leaderboard(report_input({"other": {"clip_i": 0.5}})))
    assert first == second
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        *("leaderboard.csv", "leaderboard.json", "leaderboard.md", "leaderboard.tex"),
    ]
    for path, old in zip(second, before, strict=True):
        assert path.read_bytes() != old


def test_csv_and_json_have_the_ends_of_intervals(report_input, score_table, tmp_path, cell_of):
    values = {"cat": 0.5, "dog": 0.75, "owl": 0.625, "hat": 0.5}
    inputs = report_input(
        {"mokus": {}},
        scores=score_table([("mokus", "generation", concept, "clip_t", value) for concept, value in values.items()]),
        expected=pd.DataFrame({"method": ["mokus"], "task": "generation", "planned": 4}),
        concepts=4,
    )
    board = build_leaderboard(inputs)
    write_report(tmp_path, board)
    cell = cell_of(board, "mokus", "generation_clip_t")
    table = pd.read_csv(tmp_path / "leaderboard.csv", float_precision="round_trip").set_index("label")
    row = json.loads((tmp_path / "leaderboard.json").read_text())["rows"][0]
    ends = [cell.low, cell.high]
    assert ends[0] < 0.59375 < ends[1]
    assert table.loc["mokus", ["generation_clip_t_low", "generation_clip_t_high"]].tolist() == ends
    assert [row["cells"]["generation_clip_t"][end] for end in ("low", "high")] == ends
    assert pd.isna(table.loc["mokus", "generation_clip_i_low"])
    assert "train_seconds_low" not in table
    assert row["cells"]["train_seconds"]["low"] is None
