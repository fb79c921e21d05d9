"""A run from its plan to its leaderboard: its files, and the effect of running it again."""

import importlib.metadata
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from knowcusbench.benchmark.types import Task
from knowcusbench.encoders import base as encoders
from knowcusbench.encoders.clip import ClipEncoder
from knowcusbench.metrics.base import text_of
from knowcusbench.metrics.protocol import TextForm
from knowcusbench.run.layout import RunStore
from knowcusbench.run.plan import Sample, samples
from knowcusbench.stages.score import score_item

METHODS = {"base", "leak", "anchor", "mokus", "naive_db", "enc_ft"}


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that keeps the files' times."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def files(root: Path) -> dict[str, bytes]:
    """Return all results of a run by path, without the records that every command and process adds."""
    own = {"provenance", "provenance.html", "journal", "sweeps"}
    kept = (path for path in root.rglob("*") if path.is_file() and not own & set(path.relative_to(root).parts))
    return {str(path.relative_to(root)): _placeless(path) for path in kept}


def _placeless(path: Path) -> bytes:
    """Return a file's bytes; of the gallery, without the commands that draw again, which name the run's directory."""
    return re.sub(rb'"command":.*?\]}', b"", path.read_bytes()) if path.suffix == ".html" else path.read_bytes()


def scores(root: Path, method: str, metric: str) -> pd.Series:
    table = pd.read_parquet(root / "scores" / method / f"{metric}.parquet")
    return table.set_index("sample_id")["value"].sort_index()


def images(root: Path, method: str) -> Iterator[Path]:
    return (root / "images" / method).rglob("*.png")


def test_a_sweep_leaves_every_sample_of_every_method(finished_run):
    plan = pd.read_parquet(finished_run / "plan.parquet")
    assert len(plan) == 16
    for method in METHODS:
        assert {path.stem for path in images(finished_run, method)} == set(plan["id"])
    assert {path.stem for path in (finished_run / "configs").iterdir()} == METHODS


def test_every_column_of_the_leaderboard_is_filled(finished_run):
    board = pd.read_csv(finished_run / "report" / "leaderboard.csv")
    ours = board[board["kind"].isin(["method", "control"])]
    assert set(ours["label"]) == METHODS
    # Two concepts are too few for intervals.
    numbers = ours.drop(columns=["label", "kind", "incomplete", "approximate"])
    numbers = numbers[[name for name in numbers if not name.endswith(("_low", "_high"))]]
    assert numbers.shape[1] == 10
    assert numbers.notna().all(axis=None)
    assert {"ceiling", "published"} <= set(board["kind"])
    for suffix in ("tex", "md", "json"):
        assert (finished_run / "report" / f"leaderboard.{suffix}").stat().st_size > 500


def test_an_image_carries_its_record(finished_run):
    plan = {sample.id: sample for sample in samples(pd.read_parquet(finished_run / "plan.parquet"))}
    for path in images(finished_run, "anchor"):
        text = Image.open(path).text
        sample = plan[path.stem]
        noun = {"dog3": "dog", "duck_toy": "toy"}[sample.concept]
        assert text["prompt"] == sample.prompt.replace("{}", f"sks {noun}")
        assert (text["sample"], text["method"], text["seed"]) == (sample.id, "anchor", str(sample.seed))
        assert (text["concept"], text["task"]) == (sample.concept, sample.task.value)


def test_every_sample_has_noise_of_its_own(finished_run):
    for method in METHODS:
        assert len({np.asarray(Image.open(path)).tobytes() for path in images(finished_run, method)}) == 16


def test_text_metrics_are_told_the_class_noun_not_the_knowledge(dog, tmp_path):
    prompt = dog.prompts[0].template
    sample = Sample("0123456789abcdef", dog.name, Task.GENERATION, 1, "origin", prompt, "background_change", 0)
    method = SimpleNamespace(subject=lambda concept, item: concept.anchor)
    gallery = {dog.name: dog.images}
    run = SimpleNamespace(
        concept=lambda name: dog, store=RunStore(tmp_path), label="mokus", method=method, gallery=gallery
    )
    item = score_item(run, sample)
    assert text_of(item, TextForm.class_noun) == "a photo of dog on the beach"
    assert text_of(item, TextForm.phrase) == "a photo of the one from Rome on the beach"
    assert item.subject == "sks dog"
    assert (item.references, item.held_out, item.gallery) == (dog.images, (), gallery)
    assert item.image == tmp_path / "images" / "mokus" / "dog3" / "0123456789abcdef.png"


def test_scores_are_one_row_per_sample_and_metric(finished_run):
    plan = pd.read_parquet(finished_run / "plan.parquet")
    generation = set(plan["id"][plan["task"] == "generation"])
    for metric, expected in (("clip_i", set(plan["id"])), ("pickscore", generation)):
        table = pd.read_parquet(finished_run / "scores" / "mokus" / f"{metric}.parquet")
        assert set(table["sample_id"]) == expected
        assert table["sample_id"].is_unique
        assert np.isfinite(table["value"]).all()


def test_stage_one_is_trained_once_for_all_that_share_it(finished_run):
    weights = [
        (finished_run / "adaptations" / method / "dog3" / "transformer" / "adapter_model.safetensors").read_bytes()
        for method in ("anchor", "leak", "mokus", "enc_ft")
    ]
    assert len(set(weights)) == 1
    seconds = [
        json.loads((finished_run / "adaptations" / method / "dog3" / "adaptation.json").read_text())["cost"]["seconds"]
        for method in ("anchor", "mokus", "enc_ft")
    ]
    assert len({cost["visual"] for cost in seconds}) == 1, "the shared stage's first price is in every method's cost"
    assert "textual" in seconds[1]
    assert "textual" not in seconds[0]


def test_the_leaderboard_is_the_macro_mean_of_the_scores(finished_run):
    """Means by hand: over samples, then over concepts, unweighted."""
    plan = pd.read_parquet(finished_run / "plan.parquet").set_index("id")
    table = pd.read_parquet(finished_run / "scores" / "enc_ft" / "clip_i.parquet").set_index("sample_id")
    values = {"dog3": [], "duck_toy": []}
    for sample_id, row in table.iterrows():
        if plan.loc[sample_id, "task"] == "reconstruction":
            values[plan.loc[sample_id, "concept"]].append(row["value"])
    by_hand = np.mean([np.mean(of_concept) for of_concept in values.values()])
    board = json.loads((finished_run / "report" / "leaderboard.json").read_text())
    shown = pd.read_csv(finished_run / "report" / "leaderboard.csv")
    row = shown[(shown == "enc_ft").any(axis=1)].iloc[0]
    assert row["reconstruction_clip_i"] == pytest.approx(by_hand, abs=1e-12)
    assert board


def test_running_again_changes_nothing(run, command):
    before = files(run)
    times = {path: path.stat().st_mtime_ns for path in (run / "images").rglob("*.png")}
    assert command("bench", run.parent, "method=mokus") == 0
    assert files(run) == before
    assert {path: path.stat().st_mtime_ns for path in (run / "images").rglob("*.png")} == times


def test_a_claim_on_what_is_done_that_a_dead_process_left_is_removed(run, command):
    claims = RunStore(run).claims("mokus", "generate")
    with claims.of("done") as claim:
        owner = json.loads(claim.content())
    (claims.directory / "done.0.claim").write_text(json.dumps({**owner, "started": owner["started"] - 100}))
    assert command("bench", run.parent, "method=mokus") == 0
    assert not list(run.rglob("*.claim"))


def test_deleted_images_are_drawn_again_byte_for_byte_and_no_others(run, command):
    before = files(run)
    times = {path: path.stat().st_mtime_ns for path in (run / "images").rglob("*.png")}
    deleted = sorted(images(run, "mokus"))[::3]
    for path in deleted:
        path.unlink()
    assert command("bench", run.parent, "method=mokus") == 0
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == set(deleted)
    after = files(run)
    timed = ("report/leaderboard", "report/costs", "report/index.html", "report/paper/", "report/document.tex")
    for name in before:
        if not name.startswith(timed):
            assert after[name] == before[name], name


def test_a_deleted_adaptation_is_made_again_byte_for_byte(run, command):
    before = files(run)
    for method in ("mokus", "naive_db"):
        shutil.rmtree(run / "adaptations" / method)
        assert command("adapt", run.parent, f"method={method}") == 0
    after = files(run)
    tensors = [name for name in before if name.endswith(".safetensors")]
    assert len(tensors) > 10
    assert all(after[name] == before[name] for name in tensors)


def test_a_changed_image_is_scored_again(run, command):
    path = sorted(images(run, "base"))[0]
    image = Image.open(path)
    Image.new("RGB", image.size, "red").save(path)
    table = run / "scores" / "base" / "clip_i.parquet"
    before = pd.read_parquet(table).set_index("sample_id")["value"]
    assert command("score", run.parent, "method=base") == 0
    after = pd.read_parquet(table).set_index("sample_id")["value"]
    assert set(after.index[after != before.loc[after.index]]) == {path.stem}


def test_images_do_not_depend_on_the_rest_of_the_grid(run, command, tmp_path):
    """One concept, one item and one seed are drawn in a run of their own."""
    alone = tmp_path / "alone"
    smaller = ("grid.concepts=[duck_toy]", "grid.knowledge_items=1", "grid.seeds=[1]", "method=base")
    assert command("adapt", alone, *smaller) == 0
    assert command("generate", alone, *smaller) == 0
    drawn = sorted(images(alone / "run", "base"))
    assert len(drawn) == 2
    for path in drawn:
        twin = run / "images" / "base" / "duck_toy" / path.name
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(twin)))


def test_controls_share_the_noise_but_not_the_prompt(finished_run):
    for path in images(finished_run, "base"):
        texts = [
            Image.open(finished_run / "images" / method / path.parent.name / path.name).text
            for method in ("base", "leak", "anchor")
        ]
        assert len({text["noise_seed"] for text in texts}) == 1
        assert len({text["prompt"] for text in texts}) == 3


def test_provenance_names_versions_hardware_and_weights(finished_run):
    records = [json.loads(path.read_text()) for path in (finished_run / "provenance").iterdir()]
    assert len(records) == len(METHODS)
    record = records[0]
    assert record["packages"]["torch"] == importlib.metadata.version("torch")
    assert record["hardware"]["cores"] >= 1
    assert set(record["seconds"]) == {"adapt", "generate", "score", "effects", "report"}
    assert all(digest.startswith("sha256:") for digest in record["metric_weights"]["clip_i"].values())
    identity = json.loads((finished_run / "run.json").read_text())
    assert len(identity["benchmark"]) == 64
    assert record["benchmark"] == identity["benchmark"]
    assert record["backbone_weights"] == json.loads((finished_run / "weights.json").read_text())["backbone_weights"]
    config = yaml.safe_load((finished_run / "configs" / "mokus.yaml").read_text())
    assert config["method"]["dreambooth"]["steps"] == 2


def test_a_sweep_over_a_setting_gives_each_value_a_row_and_the_metrics_curves(command, tmp_path):
    assert command("bench", tmp_path, "-m", "recipe.ultraedit.eta=1e-3,1e-2", "grid.tasks=[reconstruction]") == 0
    labels = {path.stem for path in (tmp_path / "run" / "configs").iterdir()}
    assert labels == {"mokus,recipe.ultraedit.eta=0.001", "mokus,recipe.ultraedit.eta=0.01"}
    curves = pd.read_csv(tmp_path / "run" / "report" / "ablation.csv")
    assert set(curves["setting"]) == {0.001, 0.01}
    assert '<section id="ablation">' in (tmp_path / "run" / "report" / "index.html").read_text()


def test_another_configuration_is_refused_with_the_keys_that_differ(run, command, capsys):
    before = files(run)
    assert command("bench", run.parent, "grid.seeds=[0,1,2]") == 2
    assert "grid.seeds: [0, 1] there, [0, 1, 2] now" in capsys.readouterr().err
    assert command("bench", run.parent, "method=mokus", "editor.eta=0.5") == 2
    assert "method.editor.eta" in capsys.readouterr().err
    assert files(run) == before


def test_a_metric_can_be_added_to_a_run(command, tmp_path):
    assert command("bench", tmp_path, "method=base", "metrics=[clip_i]") == 0
    assert command("bench", tmp_path, "method=base", "metrics=[clip_i,clip_t]") == 0
    assert {path.stem for path in (tmp_path / "run" / "scores" / "base").iterdir()} == {"clip_i", "clip_t"}


def test_other_weights_at_the_same_place_are_refused(run, command, capsys):
    (run / "weights.json").write_text('{"backbone_weights": "0000"}')
    next(images(run, "base")).unlink()
    assert command("bench", run.parent, "method=base") == 2
    assert "other backbone weights" in capsys.readouterr().err


def test_missing_images_are_counted_in_the_report_not_averaged_over(run, command):
    for path in sorted(images(run, "base"))[:3]:
        path.unlink()
    for metric in (run / "scores" / "base").iterdir():
        metric.unlink()
    assert command("score", run.parent, "method=base") == 0
    assert command("report", run.parent, "method=base") == 0
    assert " of 8 samples" in (run / "report" / "leaderboard.md").read_text()


def test_a_report_needs_nothing_but_the_run(run, monkeypatch, capsys):
    """It needs none of the overrides that the run was made with, and adds no method."""
    from knowcusbench.cli.main import main

    before = (run / "report" / "leaderboard.csv").read_bytes()
    (run / "report" / "leaderboard.csv").unlink()
    main(["report", f"run.root={run.parent}", f"run.name={run.name}"])
    assert (run / "report" / "leaderboard.csv").read_bytes() == before


def test_a_report_of_nothing_is_refused(command, tmp_path, capsys):
    assert command("report", tmp_path) == 2
    assert "no results to report" in capsys.readouterr().err


def test_planning_adds_no_method_to_a_run(run, command):
    assert command("plan", run.parent, "method=mokus", "run.label=other") == 0
    assert {path.stem for path in (run / "configs").iterdir()} == METHODS


def test_where_the_cache_lies_makes_no_difference(run, command, cache_dir, tmp_path):
    """The embedded encoders and backbone are identified by content, so scores of two machines can be compared."""
    moved = shutil.copytree(cache_dir, tmp_path / "moved")
    before = files(run)
    assert command("bench", run.parent, "method=base", f"cache_dir={moved}") == 0
    assert files(run) == before


def test_held_out_references_are_shown_to_no_method_and_compared_with(command, tmp_path):
    held = ("method=base", "grid.held_out=2", "metrics=[clip_i]", "effects.enabled=false", "grid.seeds=[0]")
    assert command("bench", tmp_path, *held, "protocol.references=held_out") == 0
    assert command("bench", tmp_path / "train", *held) == 0
    scores = [
        pd.read_parquet(root / "run" / "scores" / "base" / "clip_i.parquet").set_index("sample_id")
        for root in (tmp_path, tmp_path / "train")
    ]
    assert set(scores[0]["protocol"]).isdisjoint(scores[1]["protocol"])
    assert (scores[0]["value"] - scores[1]["value"]).abs().max() > 1e-5


def test_more_references_than_there_are_cannot_be_held_out(command, tmp_path, capsys):
    assert command("plan", tmp_path, "grid.held_out=6") == 2
    assert "grid.held_out: 6 of the" in capsys.readouterr().err


def test_held_out_references_that_nobody_held_out_are_refused_before_anything_is_made(command, tmp_path, capsys):
    assert command("bench", tmp_path, "method=base", "protocol.references=held_out") == 2
    assert "needs 1 reference images of the split held_out" in capsys.readouterr().err
    assert not (tmp_path / "run" / "images").exists()


def test_a_floor_is_the_score_beside_the_next_concept(finished_run):
    """Of two concepts each is the other's next: their mean is that of one's images with the other's references."""
    plan = pd.read_parquet(finished_run / "plan.parquet").set_index("id")
    own = pd.read_parquet(finished_run / "scores" / "base" / "clip_i.parquet").set_index("sample_id")
    floor = pd.read_parquet(finished_run / "floors" / "base" / "clip_i.parquet").set_index("sample_id")
    assert set(own.index) == set(floor.index) == set(plan.index)
    assert (own["value"] - floor["value"]).abs().min() > 0
    # With one prompt each there is no other to compare with.
    assert not (finished_run / "floors" / "base" / "clip_t.parquet").exists()


def test_a_run_of_another_protocol_is_refused(run, command, capsys):
    assert command("score", run.parent, "method=base", "protocol=dreambench_plus") == 2
    assert "made with another configuration" in capsys.readouterr().err


def test_embeddings_are_shared_by_runs(command, cache_dir, tmp_path, monkeypatch):
    settings = ("method=base", "metrics=[clip_i,clip_t]", "effects.enabled=false", "grid.seeds=[0]")
    assert command("bench", tmp_path, *settings) == 0
    encoded = []
    original = ClipEncoder.image_features
    monkeypatch.setattr(ClipEncoder, "image_features", lambda s, pixels: encoded.append(1) or original(s, pixels))
    encoders._load.cache_clear()
    assert command("bench", tmp_path / "again", *settings, "protocol.scale=100") == 0
    assert encoded == []
