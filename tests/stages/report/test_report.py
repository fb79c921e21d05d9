"""The report made from scores, floors and timings in a run directory."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from knowcusbench.cli.main import main

Command = Callable[..., int]
CONCEPTS = ("dog3", "duck_toy", "fancy_boot")
SMALL = (
    "backbone.steps=2",
    f"grid.concepts=[{','.join(CONCEPTS)}]",
    "grid.knowledge_items=2",
    "grid.prompts=1",
    "grid.seeds=[0,1]",
    "metrics=[clip_i]",
    "effects.enabled=false",
    "method=base",
)
"""Overrides of a run with 8 images in 4 cells per concept."""


@pytest.fixture(scope="module")
def drawn(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    assert command("bench", root, small=SMALL) == 0
    return root / "run"


@pytest.fixture
def run(drawn: Path, tmp_path: Path) -> Path:
    """A copy of the run that keeps the files' times."""
    return Path(shutil.copytree(drawn, tmp_path / "run"))


def drawing(run: Path) -> pd.DataFrame:
    """Return the journal's lines about samples, one per batch, and about encoding, one per concept."""
    lines = [json.loads(line) for path in (run / "journal" / "base").iterdir() for line in path.open()]
    return pd.DataFrame([line for line in lines if line["stage"] == "generate"])


def board(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "report" / "leaderboard.csv").set_index("label")


def test_every_batch_leaves_its_timing_and_the_leaderboard_the_mean(drawn: Path) -> None:
    found = drawing(drawn)
    assert found.groupby("concept")["images"].sum().to_dict() == dict.fromkeys(CONCEPTS, 8)
    batches = found[found["images"].notna()]
    assert batches["batches"].tolist() == [[2]] * len(batches)
    written = [name for names in batches["written"] for name in names]
    assert sorted(written) == sorted(pd.read_parquet(drawn / "plan.parquet")["id"])
    assert (batches["peak_memory_bytes"] > 2**20).all()
    mean = found.groupby("concept")["seconds"].sum().mean() / 8
    assert board(drawn).loc["base", "draw_seconds"] == pytest.approx(mean)


def test_images_drawn_again_are_timed_too_and_have_the_same_bytes(run: Path, command: Command) -> None:
    """One image of a cell of two is removed, so both are drawn."""
    image = sorted((run / "images" / "base" / "dog3").iterdir())[0]
    before = image.read_bytes()
    image.unlink()
    assert command("bench", run.parent, small=SMALL) == 0
    assert image.read_bytes() == before
    found = drawing(run)
    again = found[found["concept"] == "dog3"].iloc[-1]
    assert (again["images"], again["written"]) == (2, [image.stem])
    costs = pd.read_csv(run / "report" / "costs.csv").set_index(["method", "concept", "stage"])
    row = costs.loc[("base", "dog3", "generate")]
    seconds = found[found["concept"] == "dog3"]["seconds"].sum()
    assert row[["images", "seconds", "images_per_second"]].tolist() == pytest.approx([10, seconds, 10 / seconds])


def test_an_image_that_was_damaged_after_its_score_is_told_and_what_can_be_shown_is(
    run: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """All images of a concept are damaged, so that its example in the image grid is among them."""
    damaged = sorted((run / "images" / "base" / "dog3").iterdir())
    before = board(run)
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-200])
    touched = next((run / "images" / "base" / "duck_toy").iterdir())
    touched.touch()
    assert command("report", run.parent, small=SMALL) == 0
    output = capsys.readouterr()
    assert "base (control): 8 images are not those that were scored" in " ".join(output.out.split())
    (line,) = [line for line in output.err.splitlines() if "not shown" in line]
    assert any(str(path) in line for path in damaged)
    assert "altered=8" in board(run).loc["base", "incomplete"]
    assert board(run).loc["base", "generation_clip_i"] == before.loc["base", "generation_clip_i"]
    # Scoring leaves them out, names the first, and reports it by its exit code.
    assert command("score", run.parent, small=SMALL) == 3
    error = capsys.readouterr().err
    assert error.count("not scored:") == 6
    assert "base: 8 images have no score" in error
    assert command("report", run.parent, small=SMALL) == 0
    assert "altered" not in board(run).loc["base", "incomplete"]
    assert "generation_clip_i=8/12" in board(run).loc["base", "incomplete"]


def test_images_without_a_timing_have_no_cost(run: Path, command: Command) -> None:
    shutil.rmtree(run / "journal")
    assert command("report", run.parent, small=SMALL) == 0
    assert "draw_seconds=0/3" in board(run).loc["base", "incomplete"]


def test_the_command_in_the_gallery_draws_the_image_again_with_the_same_bytes(run: Path) -> None:
    """Runs the command as a shell would, with the run's present directory. The command that drew the image had its
    own."""
    assert '"command":[]' not in (run / "report" / "gallery" / "duck_toy.html").read_text()
    assert main_exit("report", f"run.root={run.parent}", "run.name=run") == 0
    page = (run / "report" / "gallery" / "duck_toy.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    image = sorted((run / "images" / "base" / "duck_toy").iterdir())[3]
    before, others = image.read_bytes(), set((run / "images").rglob("*.png"))
    remove, _, command = image.stem.join(data["methods"][0]["command"]).partition(" && ")
    assert shlex.split(remove) == ["rm", str(image)]
    image.unlink()
    program, *words = shlex.split(command)
    assert program == "knowcusbench"
    assert main_exit(*words) == 0
    assert image.read_bytes() == before
    assert set((run / "images").rglob("*.png")) == others


def main_exit(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_page_of_provenance_has_the_command_that_wrote_it(drawn: Path) -> None:
    (file,) = (drawn / "provenance").iterdir()
    record = json.loads(file.read_text())
    page = (drawn / "report" / "provenance.html").read_text()
    for text in (record["time"], record["packages"]["torch"], *record["metric_weights"]["clip_i"].values()):
        assert text in page


def test_scores_have_intervals_over_the_concepts(drawn: Path) -> None:
    row = board(drawn).loc["base"]
    assert row["reconstruction_clip_i_low"] < row["reconstruction_clip_i"] < row["reconstruction_clip_i_high"]
    breakdown = pd.read_csv(drawn / "report" / "breakdown.csv")
    plan = pd.read_parquet(drawn / "plan.parquet")
    for by in ("knowledge_aspect", "prompt_aspect", "concept"):
        levels = breakdown[breakdown["by"] == by]
        assert set(levels["level"]) == set(plan[by])
        assert levels["samples"].sum() == len(plan)
    ends = f"[{row['reconstruction_clip_i_low']:.3f}, {row['reconstruction_clip_i_high']:.3f}]"
    assert ends in (drawn / "report" / "statistics.md").read_text()


def test_floors_are_a_row_beside_the_real_images(run: Path, command: Command) -> None:
    plan = pd.read_parquet(run / "plan.parquet")
    own = plan[plan["task"] == "generation"]
    value = own["concept"].map({"dog3": 0.0, "duck_toy": 0.25, "fancy_boot": 0.5}).astype(float)
    before = board(run).loc["shuffled"]
    assert 0 < before["reconstruction_clip_i"] < board(run).loc["real images", "reconstruction_clip_i"]
    floors = pd.DataFrame({"sample_id": own["id"], "value": value, "protocol": "abc"})
    floors.to_parquet(run / "floors" / "base" / "clip_i.parquet", index=False)
    assert command("report", run.parent, small=SMALL) == 0
    row = board(run).loc["shuffled"]
    assert (row["kind"], row["generation_clip_i"]) == ("floor", 0.25)
    assert row["generation_clip_i_low"] < 0.25 < row["generation_clip_i_high"]
    assert pd.isna(row["reconstruction_clip_i"])
