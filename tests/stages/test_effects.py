"""The effects stage's files in a run, and the effect of running it again."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from knowcusbench.adapters.peft_files import load_adaptation, save_adaptation
from knowcusbench.adapters.sums import summed
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.config.build import build
from knowcusbench.stages.effects import sum_of
from knowcusbench.toybox import embedded
from knowcusbench.toymaker.figures import compose

METHODS = ("base", "leak", "anchor", "mokus", "naive_db", "enc_ft")
FOLDERS = ("effects", "together", "interference", "unrelated")


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that keeps the files' times."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def results(root: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of all files of the stage."""
    found = [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def changed(before: dict[str, tuple[bytes, int]], after: dict[str, tuple[bytes, int]]) -> set[str]:
    """Return the files that were written again."""
    assert before.keys() == after.keys()
    return {name for name in before if before[name][1] != after[name][1]}


def table(root: Path, method: str, concept: str, name: str) -> pd.DataFrame:
    return pd.read_parquet(root / "effects" / method / concept / f"{name}.parquet")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_every_adaptation_has_its_tables_and_pictures(finished_run):
    for method in METHODS:
        for adaptation in (finished_run / "adaptations" / method).rglob("adaptation.json"):
            place = finished_run / "effects" / adaptation.relative_to(finished_run / "adaptations").parent
            assert {path.name for path in place.glob("*.parquet")} == {"text.parquet", "pictures.parquet"}
            assert {path.name for path in place.glob("*.png")} == {
                path.name for path in (finished_run / "unrelated").iterdir()
            }
    assert len(list((finished_run / "unrelated").iterdir())) == 2


def test_the_base_moves_nothing(finished_run):
    """The base's images are drawn anew, so this also shows that drawing is repeatable."""
    text = table(finished_run, "base", "dog3", "text")
    assert (text["value"] == text["base"])[text["base"].notna()].all()
    assert (text.loc[text["measure"] == "kl", "value"] == 0).all()
    pictures = table(finished_run, "base", "dog3", "pictures").groupby("measure")["value"]
    assert pictures.min()["clip_i"] == 1
    assert pictures.min()["patch_cosine"] == 1
    assert pictures.max()["rmse"] == 0


@pytest.mark.parametrize(
    ("method", "moves_text"), [("anchor", False), ("leak", False), ("mokus", True), ("enc_ft", True)]
)
def test_text_moves_where_the_text_encoder_is_adapted_and_pictures_in_any_case(finished_run, method, moves_text):
    text = table(finished_run, method, "dog3", "text")
    divergences = text.loc[text["measure"] == "kl", "value"]
    assert len(divergences) == 12 + 2 + 1, "unrelated questions, the duck's questions, one prompt"
    assert divergences.min() > -1e-12
    assert (divergences.mean() > 1e-6) == moves_text
    assert moves_text or (divergences == 0).all()
    pictures = table(finished_run, method, "dog3", "pictures")
    assert (pictures.loc[pictures["measure"] == "rmse", "value"] > 0).all()


def test_an_item_of_its_own_is_asked_for_itself_alone(finished_run):
    for item in (0, 1):
        text = table(finished_run, "naive_db", f"dog3/{item}", "text")
        assert text.loc[text["probe"] == "question", "text"].nunique() == 1


@pytest.mark.parametrize("method", ["mokus", "naive_db"])
def test_together_means_the_sum_of_all_adaptations(finished_run, cache_dir, method):
    composed = compose([f"backbone.source={embedded('pipeline', str(cache_dir))}", "backbone.steps=2"])
    backbone = build(composed.backbone, "backbone").load()
    parts = [path.parent for path in sorted((finished_run / "adaptations" / method).rglob("adaptation.json"))]
    assert len(parts) == {"mokus": 2, "naive_db": 4}[method]
    drawn = sorted((finished_run / "together" / method / "dog3").iterdir())
    assert len(drawn) == 4
    record = Image.open(drawn[0]).text
    cell = [path for path in drawn if Image.open(path).text["prompt"] == record["prompt"]]
    cell.sort(key=lambda path: int(Image.open(path).text["seed"]))
    with backbone.adapted(summed([load_adaptation(path) for path in parts])):
        seeds = [int(Image.open(path).text["noise_seed"]) for path in cell]
        expected = backbone.sample(backbone.encode(record["prompt"]), seeds)
    for path, image in zip(cell, expected, strict=True):
        assert np.array_equal(pixels(path), np.asarray(image))
        alone = finished_run / "images" / method / "dog3" / path.name
        assert not np.array_equal(pixels(alone), pixels(path))


def lora(seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return Adapter.from_factors({"0": (torch.randn(2, 6, generator=generator), torch.randn(8, 2, generator=generator))})


def change(adapter: Adapter | None) -> torch.Tensor:
    assert adapter
    return adapter.weights["0.lora_B.weight"] @ adapter.weights["0.lora_A.weight"]


def test_an_edit_that_several_concepts_share_is_in_their_sum_once(tmp_path):
    """As with scope=batch: each concept has its own transformer, and all but the last share one text encoder."""
    visual, edits = [lora(seed) for seed in range(3)], [lora(7), lora(7), lora(8)]
    parts = tuple(tmp_path / str(number) for number in range(3))
    for part, transformer, text_encoder in zip(parts, visual, edits, strict=True):
        save_adaptation(Adaptation(transformer, text_encoder), part)
    together = sum_of(parts)
    torch.testing.assert_close(change(together.text_encoder), change(lora(7)) + change(lora(8)))
    torch.testing.assert_close(change(together.transformer), sum(map(change, visual)))


def test_interference_has_every_reconstruction_drawn_either_way(finished_run):
    plan = pd.read_parquet(finished_run / "plan.parquet")
    wanted = set(plan.loc[plan["task"] == "reconstruction", "id"])
    for method in METHODS:
        rows = pd.read_parquet(finished_run / "interference" / f"{method}.parquet")
        for applied in ("separately", "together"):
            assert sorted(rows.loc[rows["applied"] == applied, "sample_id"]) == sorted(wanted)
        assert set(rows["nearest"]) <= {"dog3", "duck_toy"}
    base = pd.read_parquet(finished_run / "interference" / "base.parquet")
    either = base.pivot(index="sample_id", columns="applied", values="nearest")
    assert (either["separately"] == either["together"]).all()


def test_running_again_writes_nothing(run, command):
    before = results(run)
    assert command("effects", run.parent, "method=mokus") == 0
    assert not changed(before, results(run))


@pytest.mark.parametrize(
    "deleted",
    ["effects/mokus/dog3/text.parquet", "effects/mokus/dog3/pictures.parquet", "interference/mokus.parquet"],
)
def test_a_deleted_table_is_made_again_and_nothing_else(run, command, deleted):
    before = results(run)
    (run / deleted).unlink()
    assert command("effects", run.parent, "method=mokus") == 0
    after = results(run)
    assert changed(before, after) == {deleted}
    assert after[deleted][0] == before[deleted][0]


@pytest.mark.parametrize(
    "folder", ["unrelated", "effects/mokus/dog3", "effects/naive_db/dog3/1", "together/mokus/dog3"]
)
def test_a_deleted_picture_is_drawn_again_and_no_other(run, command, folder):
    before = results(run)
    picture = sorted((run / folder).glob("*.png"))[-1]
    picture.unlink()
    method = "naive_db" if "naive_db" in folder else "mokus"
    assert command("effects", run.parent, f"method={method}") == 0
    after = results(run)
    name = str(picture.relative_to(run))
    assert changed(before, after) == {name}
    assert after[name][0] == before[name][0]


def test_everything_comes_out_the_same_again(run, command):
    before = results(run)
    for folder in FOLDERS:
        shutil.rmtree(run / folder)
    for method in ("mokus", "naive_db"):
        assert command("effects", run.parent, f"method={method}") == 0
    after = results(run)
    assert len(after) > 20
    assert all(after[name][0] == before[name][0] for name in after)


def test_a_changed_picture_is_compared_again(run, command):
    before = results(run)
    picture = sorted((run / "effects" / "mokus" / "dog3").glob("*.png"))[0]
    Image.new("RGB", (64, 64), "red").save(picture)
    drawn = sorted((run / "images" / "mokus" / "duck_toy").glob("*.png"))
    plan = pd.read_parquet(run / "plan.parquet").set_index("id")["task"]
    sample = next(path for path in drawn if plan[path.stem] == "reconstruction")
    shutil.copy(sorted((run.parent / "run" / "images" / "base" / "dog3").glob("*.png"))[0], sample)
    assert command("effects", run.parent, "method=mokus") == 0
    name = str(picture.relative_to(run))
    assert changed(before, results(run)) - {name} == {
        "effects/mokus/dog3/pictures.parquet",
        "interference/mokus.parquet",
    }


def test_other_unrelated_prompts_are_measured_anew_and_not_mixed_with_the_old(run, command):
    assert command("bench", run.parent, "method=mokus", "locality.prompts=[a blue heart]") == 0
    board = pd.read_csv(run / "report" / "effects.csv").set_index("label")
    assert np.isfinite(board.loc["mokus", "unrelated_prompt_clip_i"])
    assert np.isnan(board.loc["base", "unrelated_prompt_clip_i"])
    assert "base: measured by another protocol" in (run / "report" / "effects.md").read_text()


def test_the_report_has_the_means_of_the_tables(finished_run):
    """Means by hand: over texts, then over concepts."""
    board = pd.read_csv(finished_run / "report" / "effects.csv").set_index("label")
    assert set(METHODS) < set(board.index)
    by_hand = []
    for concept in ("dog3", "duck_toy"):
        text = table(finished_run, "enc_ft", concept, "text")
        by_hand.append(text[(text["probe"] == "other_concept") & (text["measure"] == "kl")]["value"].mean())
    assert board.loc["enc_ft", "other_concept_kl"] == pytest.approx(np.mean(by_hand), rel=1e-12)
    for suffix in ("tex", "md", "json"):
        assert (finished_run / "report" / f"effects.{suffix}").stat().st_size > 500
    counts = pd.read_csv(finished_run / "report" / "confusion-mokus.csv")
    assert counts[["dog3", "duck_toy"]].to_numpy().sum() == 16
    assert "together, all 4 are applied" in (finished_run / "report" / "effects.md").read_text()


def test_the_stage_needs_adaptations(command, tmp_path, capsys):
    assert command("effects", tmp_path, "method=base") == 2
    *before, message = capsys.readouterr().err.splitlines()
    assert "no adaptation there; run `knowcusbench adapt` first" in message
    assert not any(line.startswith("knowcusbench:") for line in before)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("effects.seeds=[0,0]", "effects.seeds: expected different ones"),
        ("locality.prompts=[a,a]", "locality.prompts: expected different ones"),
        ("effects.question_form=shouted", "effects.question_form"),
        ("effects.encoder.sorce=x", "effects.encoder.sorce"),
        ("locality.questions=[{question: Who?}]", "locality.questions"),
        ("+effects.enbled=true", "effects.enbled: unknown key; did you mean 'enabled'"),
        ("locality=generel", "locality=generel: no such option; did you mean 'general'"),
    ],
)
def test_a_mistake_is_one_line(command, tmp_path, capsys, override, said):
    assert command("plan", tmp_path, override) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1


def test_bench_leaves_effects_out_if_told_and_the_verb_does_not(command, tmp_path):
    assert command("bench", tmp_path, "method=base", "effects.enabled=false", "grid.concepts=[dog3]") == 0
    assert not (tmp_path / "run" / "effects").exists()
    assert not (tmp_path / "run" / "report" / "effects.md").exists()
    assert command("effects", tmp_path, "method=base", "effects.enabled=false", "grid.concepts=[dog3]") == 0
    assert (tmp_path / "run" / "effects" / "base" / "dog3" / "text.parquet").exists()
    assert not (tmp_path / "run" / "together").exists(), "a single concept disturbs no other"
