"""The report's files for a paper, from a real run."""

import re
import shutil
import subprocess

import pandas as pd
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def root(finished_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("paper")
    shutil.copytree(finished_run, root / "run")
    return root


CHOICE = (
    "report.columns=[clip_t,reconstruction_clip_i,train_seconds]",
    "report.rows=[naive_db,mokus,base,MoKus]",
    "report.concepts=[duck_toy]",
    "report.percent=true",
    "report.precision=2",
)


def test_the_table_is_as_chosen_and_the_leaderboard_whole(command, root, capsys):
    assert command("report", root, *CHOICE) == 0
    report = root / "run" / "report"
    table, board = (pd.read_csv(report / name, index_col="label") for name in ("paper/table.csv", "leaderboard.csv"))
    assert list(table.index) == ["naive_db", "mokus", "base", "MoKus"]
    scores = ["generation_clip_t", "reconstruction_clip_i"]
    assert [name for name in table.columns if not re.search("_(low|high)$|kind|incomplete|approximate", name)] == [
        *scores,
        "train_seconds",
    ]
    for label in table.index:
        for column in scores:
            assert table.loc[label, column] == pytest.approx(round(100 * board.loc[label, column], 2), abs=1e-9)
    shown = capsys.readouterr().out
    assert f"{100 * board.loc['mokus', 'generation_clip_t']:.2f}" in shown
    assert "enc_ft" not in shown.partition("Effects")[0]
    assert "enc_ft" in board.index
    for kind in ("tex", "md", "json"):
        assert (report / "paper" / f"table.{kind}").exists()


def test_figures_show_the_chosen_concepts_methods_and_cost(command, root):
    assert command("report", root, *CHOICE, "report.cost=adapter_mib") == 0
    paper = root / "run" / "report" / "paper"
    points = pd.read_csv(paper / "pareto.csv")
    assert set(points["label"]) == {"naive_db", "mokus", "base"}
    assert set(points["column"]) == {"generation_clip_t", "reconstruction_clip_i"}
    board = pd.read_csv(paper.parent / "leaderboard.csv", index_col="label")
    costs = points.loc[points["label"] == "mokus", "cost"]
    assert costs.tolist() == pytest.approx([board.loc["mokus", "adapter_mib"]] * 2)
    one = Image.open(paper / "pictures.png").size
    assert command("report", root) == 0
    two = Image.open(paper / "pictures.png").size
    assert one[0] == two[0]
    # One row of four images; two rows of seven.
    assert one[1] != two[1]
    for name in ("pictures", "pareto"):
        assert (paper / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_same_run_gives_the_same_bytes(command, root):
    paper = root / "run" / "report" / "paper"
    assert command("report", root) == 0
    before = {path.name: path.read_bytes() for path in paper.iterdir()}
    assert command("report", root) == 0
    assert {path.name: path.read_bytes() for path in paper.iterdir()} == before


@pytest.mark.parametrize(
    ("verb", "word", "said"),
    [
        ("report", "report.columns=[clip_x]", "report.columns: 'clip_x' is not there; did you mean 'clip_"),
        ("bench", "report.columns=[clip_x]", "report.columns: 'clip_x' is not there; did you mean 'clip_"),
        ("report", "report.rows=[mokkus]", "report.rows: 'mokkus' is not there; did you mean 'mokus'"),
        ("bench", "report.concepts=[duck]", "report.concepts: 'duck' is not there; did you mean 'duck_toy'"),
        ("report", "report.precision=99", "report.precision: expected 0 to 10 digits, found 99"),
        ("report", "report.cost=money", "report.cost: Invalid value 'money', expected one of"),
        ("report", "report.column=[clip_i]", "report.column: unknown key; did you mean 'report.columns'"),
    ],
)
def test_a_wrong_choice_is_one_line(command, root, capsys, verb, word, said):
    assert command(verb, root, word) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_rows_that_a_sweep_has_not_made_yet_do_not_stop_it(command, root):
    assert command("bench", root, "method=base", "report.rows=[mokus,not_yet]") == 0


@pytest.mark.latex
def test_the_document_of_a_real_run_compiles_as_it_stands(command, root, tmp_path):
    assert command("report", root) == 0
    shutil.copytree(root / "run" / "report", tmp_path / "report")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"],
        cwd=tmp_path / "report",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    # The paper's table, the leaderboard, effects; pictures and Pareto.
    assert "(5 pages" in done.stdout
    assert "Overfull" not in done.stdout
