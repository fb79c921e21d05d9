"""A run made before classes were identified by name and version opens, reports and continues."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from knowcusbench.baselines.base import Base

from knowcusbench.errors import RunError
from knowcusbench.metrics.clip_t import ClipT
from knowcusbench.run.checks import _check_identity
from knowcusbench.run.identity import FORMAT
from knowcusbench.run.layout import RunStore
from knowcusbench.storage.tables import read_json, read_table, write_json, write_table
from knowcusbench.toybox.shipped import weights_version

MADE_WITH = "75938e50134d"
"""Version of the shipped weights that the run was made with."""

WORDS = (
    "method=base",
    "grid.concepts=[dog3]",
    "grid.seeds=[0]",
    "grid.knowledge_items=1",
    "grid.prompts=1",
    "effects.seeds=[0]",
    "locality.prompts=[a photo of a red car]",
    "backbone.dtype=float32",
    "backbone.height=64",
    "backbone.width=64",
    "backbone.steps=2",
)
METRICS = ("clip_i", "clip_i_seg", "clip_t", "pickscore")


@pytest.fixture
def old_run(tmp_path: Path, cache_dir: Path) -> Path:
    run = tmp_path / "run"
    shutil.copytree(ROOT / "tests" / "data" / "run_before_versions", run)
    for file in (*run.rglob("*.yaml"), *run.rglob("*.json")):
        file.write_text(file.read_text().replace("CACHE", str(cache_dir)))
    return run


def test_it_reports(old_run: Path, command, capfd: pytest.CaptureFixture) -> None:
    before = (old_run / "run.json").read_bytes()
    assert command("report", old_run.parent, small=()) == 0
    board = pd.read_csv(old_run / "report" / "leaderboard.csv").set_index("label")
    assert board.loc["base", "kind"] == "control"
    scores = read_table(old_run / "scores" / "base" / "clip_t.parquet")
    assert board.loc["base", "generation_clip_t"] == pytest.approx(scores["value"].mean())
    effects = pd.read_csv(old_run / "report" / "effects.csv").set_index("label")
    assert effects.loc["base", "unrelated_prompt_cosine"] == pytest.approx(1)
    assert (old_run / "run.json").read_bytes() == before
    assert "can't" not in capfd.readouterr().err


@pytest.mark.skipif(weights_version()[:12] != MADE_WITH, reason="the run was made with other weights")
def test_it_goes_on_and_keeps_the_scores_of_versions_that_were_not_raised(
    old_run: Path, command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    store, marked = RunStore(old_run), 0.125
    plan = read_table(store.plan).set_index("task")["id"]
    removed, kept = store.image("base", "dog3", plan["reconstruction"]), plan["generation"]
    removed.unlink()
    for metric in METRICS:
        # A score that is computed again no longer has this value.
        path = store.scores("base", metric)
        write_table(path, read_table(path).assign(value=marked))
    ceiling = store.ceilings("clip_i").read_bytes()
    for verb in ("generate", "score"):
        assert command(verb, old_run.parent, *WORDS, small=()) == 0
    assert removed.exists()
    assert store.ceilings("clip_i").read_bytes() == ceiling

    def values() -> dict[str, float]:
        tables = {name: read_table(store.scores("base", name)).set_index("sample_id") for name in METRICS}
        return {name: table.loc[kept, "value"] for name, table in tables.items()}

    assert values() == dict.fromkeys(METRICS, marked)
    monkeypatch.setattr(ClipT, "version", 2)
    assert command("score", old_run.parent, *WORDS, small=()) == 0
    assert {name for name, value in values().items() if value != marked} == {"clip_t"}
    assert "scores of other versions of clip_t" in capfd.readouterr().err
    identity = read_json(store.identity)
    assert (identity["format"], identity["metrics"]["clip_t"]["_version_"]) == (2, 2)


@pytest.mark.parametrize("word", ["backbone.steps=3", "method.version=2", "protocol.scale=2.5"])
def test_another_setting_is_refused_by_name(old_run: Path, command, word: str, monkeypatch, capfd) -> None:
    key, value = word.split("=")
    words = [word]
    if key == "method.version":
        monkeypatch.setattr(Base, "version", int(value))
        words, key = [], "method._version_"
    assert command("adapt", old_run.parent, *WORDS, *words, small=()) == 2
    found = {"protocol.scale": "metrics.clip_t.scale"}.get(key, key)
    assert re.search(rf"{re.escape(found)}: \S+ there, {value} now", capfd.readouterr().err)


def test_what_was_not_recorded_is_said_and_not_compared(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    store = RunStore(tmp_path)
    plugin = {"_target_": "theirs.Model", "source": "there"}
    write_json(store.identity, {"format": 1, "backbone": plugin, "metrics": {}})
    model = {"_class_": "Model", "_version_": 1, "source": "there"}
    now = {"format": FORMAT, "backbone": {**model, "store": "b"}, "metrics": {}}
    _check_identity(store, now)
    assert "did not record backbone.store" in capfd.readouterr().err
    with pytest.raises(RunError, match=r"backbone._version_: 1 there, 2 now"):
        _check_identity(store, {**now, "backbone": {**now["backbone"], "_version_": 2}})
    # A present record leaves nothing out.
    write_json(store.identity, {**now, "backbone": model})
    with pytest.raises(RunError, match=r"backbone.store: None there, 'b' now"):
        _check_identity(store, now)
