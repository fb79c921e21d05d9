"""`export` and `leaderboard` as a user types them."""

import json
import re

import datasets
import pandas as pd
import pytest

from knowcusbench.cli.main import main
from knowcusbench.share.bundle import read_bundle


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        try:
            main(list(words))
            code = 0
        except SystemExit as stop:
            code = stop.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_export_then_leaderboard(call, run_words, tmp_path):
    code, out, _ = call("export", *run_words, "--group", "lab a", "--images", "1", "--dataset", "ds")
    assert code == 0
    assert out.startswith("wrote small.zip: ")
    assert datasets.load_from_disk("ds").num_rows == 2 * 12 + 2 * 6
    assert call("export", *run_words, "other.zip", "--group=lab b")[0] == 0
    code, out, _ = call("leaderboard", "small.zip", "other.zip", "--output", "merged", "report.percent=true")
    assert code == 0
    assert "lab b: anchor (control)" in out
    rows = json.loads((tmp_path / "merged" / "leaderboard.json").read_text())["rows"]
    assert {"lab a: base", "lab b: base", "real images"} <= {row["label"] for row in rows}
    scores = read_bundle(tmp_path / "small.zip").scores
    own = scores[(scores["method"] == "base") & (scores["task"] == "generation") & (scores["metric"] == "clip_t")]
    (base,) = [row for row in rows if row["label"] == "lab a: base"]
    exact = 100 * own.groupby("concept")["value"].mean().mean()
    assert base["cells"]["generation_clip_t"]["value"] == pytest.approx(exact, rel=1e-12)


def test_backbones_are_compared_in_blocks_each_with_a_ranking_of_its_own(call, run_words, forged, bundle, tmp_path):
    other = forged(group="lab b", name="other.zip", weights="f" * 64)
    code, out, _ = call("leaderboard", str(bundle), str(other), "--output", "both")
    assert code == 0
    first, second = out.split("Leaderboard on QwenImage weights=ffffffffffff:\n")
    assert first.startswith("Leaderboard on QwenImage weights=")
    assert "anchor (control)" in first
    assert "anchor (control)" in second
    call("leaderboard", str(bundle), "--output", "alone")
    alone = tmp_path / "alone" / "leaderboard.csv"
    table = pd.read_csv(tmp_path / "both" / "backbones.csv")
    assert table["backbone"].nunique() == 2
    own = table[table["backbone"] == table["backbone"][0]].drop(columns="backbone")
    pd.testing.assert_frame_equal(own, pd.read_csv(alone))
    assert (tmp_path / "both" / "backbone_1" / "leaderboard.csv").read_bytes() == alone.read_bytes()
    assert (tmp_path / "both" / "backbones.md").read_text().count("# Leaderboard on QwenImage weights=") == 2


WRONG = [
    (("export", "run.name=no-such-run"), "has no results to report; .* or name another run; (known|did you mean)"),
    (("export", "--group"), "expected one argument"),
    (("export", "--grup", "a"), "--grup: no such option; did you mean '--group'"),
    (("export", "bundle.tar"), r"bundle\.tar: expected a file name that ends in \.zip"),
    (("export", "/proc/x.zip"), "can't write /proc"),
    (("export", "--group", "a/b"), "--group: 'a/b' can't be a group's name"),
    (("export", "--images", "few"), "invalid int value: 'few'"),
    (("export", "--dataset", "."), "--dataset: . exists already"),
    (("export", "x.zip", "--push", "lab/results"), "HF_HUB_OFFLINE is set"),
    (("leaderboard",), "the following arguments are required: bundles"),
    (("leaderboard", "nan=x.zip"), "nan=x.zip: can't be read"),
    (("leaderboard", "nowhere.zip"), "nowhere.zip: can't be read"),
    (("leaderboard", "small.zip", "run.name=x"), "run.name=x: bundles bring their own configuration"),
    (
        ("leaderboard", "small.zip", "report.colums=[clip_i]"),
        "report.colums: unknown key; did you mean",
    ),
    (("leaderboard", "small.zip", "report.columns=[clip_j]"), "report.columns: 'clip_j' is not there"),
    (("leaderboard", "small.zip", "report.rows=[bse]"), "report.rows: 'bse' is not there; did you mean 'base'"),
    (("leaderboard", "small.zip", "small.zip"), "both have 'base'"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_a_mistake_is_one_line_and_exit_code_2(call, run_words, bundle, tmp_path, monkeypatch, words, said):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    bundle.rename(tmp_path / "small.zip")
    where = [word for word in run_words if word.split("=")[0] not in str(words)] if words[0] == "export" else []
    code, _, error = call(*words, *where)
    assert code == 2
    lines = [line for line in error.splitlines() if line.startswith("knowcusbench: ")]
    assert len(lines) == 1
    assert re.search(said, lines[0])
