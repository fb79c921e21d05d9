"""Ablations and the probe as commands: their files, and the effect of running them again."""

import json
from collections.abc import Callable
from pathlib import Path

import hydra
import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from knowcusbench.adapters.peft_files import load_record
from knowcusbench.config.compose import register
from knowcusbench.run.ablation import swept
from knowcusbench.toybox.world.benchmark import knowledge
from knowcusbench.toybox.world.concepts import DEVELOPMENT_CONCEPTS, NOVEL_CONCEPTS
from knowcusbench.toybox.world.language import known_items

Command = Callable[..., int]
CONFIGS = Path(__file__).parents[2] / "configs"
ABLATIONS = ("items", "eta", "layers", "editors", "scope")
ITEMS = ("ablation=items", "recipe.ablation.items=[1,7]", "metrics=[clip_i]", "recipe.ultraedit.rounds=1")


@pytest.fixture(scope="module")
def ablated(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run with 1 and 7 facts in one edit, and with the base."""
    root = tmp_path_factory.mktemp("ablated")
    assert command("bench", root, *ITEMS) == 0
    assert command("bench", root, "method=base", "metrics=[clip_i]") == 0
    return root


def times(root: Path) -> dict[str, int]:
    """Return when every adaptation, image and score was written."""
    kept = [path for folder in ("adaptations", "images", "scores") for path in (root / folder).rglob("*.*")]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in kept}


def test_every_value_is_a_method_of_one_run(ablated: Path) -> None:
    folder = ablated / "run" / "configs"
    assert {path.stem for path in folder.iterdir()} == {"items=1", "items=7", "base"}
    for count in (1, 7):
        recorded = yaml.safe_load((folder / f"items={count}.yaml").read_text())
        assert recorded["method"]["items"] == count
        assert recorded["ablation"] | {"value": count, "taught": count, "values": [1, 7]} == recorded["ablation"]


def test_more_facts_make_an_edit_of_higher_rank(ablated: Path) -> None:
    ranks = [
        max(load_record(ablated / "run" / "adaptations" / f"items={count}" / "dog3")["details"]["edit_ranks"])
        for count in (1, 7)
    ]
    assert ranks[0] < ranks[1]


def test_stage_one_is_shared(ablated: Path) -> None:
    seconds = {
        load_record(ablated / "run" / "adaptations" / f"items={count}" / "dog3")["cost"]["seconds"]["visual"]
        for count in (1, 7)
    }
    assert len(seconds) == 1


def test_the_table_counts_the_samples_of_taught_items(ablated: Path) -> None:
    run = ablated / "run"
    table = pd.read_csv(run / "report" / "ablation.csv", dtype={"setting": "str"})
    plan = pd.read_parquet(run / "plan.parquet").set_index("id")
    # 2 items x 2 seeds per concept and task; one item was taught at first.
    counts = table[table["column"] == "reconstruction_clip_i"].groupby("label")["n"].sum().to_dict()
    assert counts == {"items=1": 4, "items=7": 8, "base": 8}
    scores = pd.read_parquet(run / "scores" / "items=1" / "clip_i.parquet").set_index("sample_id").join(plan)
    own = scores.query("concept == 'dog3' and task == 'generation' and knowledge == 0")["value"]
    found = table.query("label == 'items=1' and concept == 'dog3' and column == 'generation_clip_i'")["value"]
    assert found.item() == pytest.approx(own.mean())
    lines = (run / "report" / "ablation.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")][2:] == [
        "| 1",
        "| 7",
        "| base (control)",
    ]
    assert {path.suffix for path in (run / "report").glob("ablation.*")} == {".csv", ".md", ".tex", ".png", ".pdf"}


def test_the_facts_of_others_in_an_edit_are_taught_and_no_locality(ablated: Path) -> None:
    asked = {}
    for label in ("items=1", "items=7", "base"):
        text = pd.read_parquet(ablated / "run" / "effects" / label / "dog3" / "text.parquet")
        asked[label] = {probe: set(rows["text"]) for probe, rows in text.groupby("probe")}
    assert [len(asked[label]["taught"]) for label in asked] == [1, 7, 2]
    assert asked["base"]["taught"] == asked["items=7"]["question"] < asked["items=7"]["taught"]
    others = asked["base"]["other_concept"]
    assert asked["items=1"]["other_concept"] == others
    assert asked["items=7"].get("other_concept", set()) == others - asked["items=7"]["taught"] < others
    table = pd.read_csv(ablated / "run" / "report" / "ablation.csv").query("column == 'taught_first_probability'")
    assert table.query("concept == 'dog3'").set_index("label")["n"].to_dict() == {
        "items=1": 1,
        "items=7": 7,
        "base": 2,
    }


def test_run_again_it_does_only_what_is_missing(ablated: Path, command: Command) -> None:
    before = times(ablated / "run")
    wider = ("recipe.ablation.items=[1,3,7]",)
    assert command("bench", ablated, *ITEMS, *wider) == 0
    after = times(ablated / "run")
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[1] for name in after.keys() - before.keys()} == {"items=3"}
    rows = (ablated / "run" / "report" / "ablation.md").read_text().splitlines()[4:7]
    assert [row.split(" | ")[0] for row in rows] == ["| 1", "| 3", "| 7"]


def test_the_report_can_be_written_again_without_naming_the_ablation(ablated: Path, command: Command) -> None:
    path = ablated / "run" / "report" / "ablation.csv"
    written = path.read_bytes()
    path.unlink()
    assert command("report", ablated, small=()) == 0
    assert path.read_bytes() == written


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("ablation=itms",), "ablation=itms: no such option; did you mean 'items'?"),
        (("ablation=items", "recipe.ablation.items=[500]"), "method.items=500, and there are"),
        (("ablation=items", "method=enc_ft"), "method.items: unknown key"),
        (("ablation=layers", "recipe.ablation.layers.early=[99]"), "layer 99"),
        (("ablation=items", "+ablation.colour=red"), "ablation.colour"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], named: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("bench", tmp_path, "metrics=[clip_i]", *words) == 2
    error = capsys.readouterr().err
    assert [line for line in error.splitlines() if line.startswith("knowcusbench: ") and named in line], error
    assert "Traceback" not in error


BY_EDITOR = {
    "ultraedit": "knowcusbench.editors.UltraEdit",
    "gated": "knowcusbench.editors.GatedUltraEdit",
}


@pytest.mark.parametrize(
    ("name", "key", "wanted"),
    [
        ("eta", ("editor", "eta"), {"0.001": 0.001, "0.01": 0.01}),
        ("layers", ("editor", "layers"), {"late": [3, 4, 5], "early": [0, 1, 2]}),
        ("editors", ("editor", "_target_"), BY_EDITOR),
        ("scope", ("scope",), {"concept": "concept", "batch": "batch"}),
    ],
)
def test_every_ablation_sets_what_it_is_about(
    name: str, key: tuple[str, ...], wanted: dict[str, object], command: Command, tmp_path: Path
) -> None:
    smaller = ["metrics=[clip_i]", "grid.concepts=[dog3]", "grid.knowledge_items=1", "grid.seeds=[0]"]
    quick = ["effects.enabled=false", "recipe.ultraedit.rounds=1", "grid.tasks=[reconstruction]"]
    values = f"ablation.values=[{','.join(wanted)}]"
    assert command("bench", tmp_path, f"ablation={name}", values, *smaller, *quick) == 0
    run = tmp_path / "run"
    edits = []
    for value, setting in wanted.items():
        found = yaml.safe_load((run / "configs" / f"{name}={value}.yaml").read_text())["method"]
        for part in key:
            found = found[part]
        assert found == setting
        edits.append(load_record(run / "adaptations" / f"{name}={value}" / "dog3")["digests"]["text_encoder"])
    assert edits[0] != edits[1]
    table = pd.read_csv(run / "report" / "ablation.csv", dtype={"setting": "str"})
    assert set(table["setting"]) == set(wanted)
    lines = (run / "report" / "ablation.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")][2:] == [f"| {value}" for value in wanted]


def test_two_ablations_do_not_share_a_run(ablated: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("bench", ablated, "ablation=eta", "recipe.ablation.eta=[0.1]", "metrics=[clip_i]") == 2
    assert "is the ablation 'items'; choose another run.name= for 'eta'" in capsys.readouterr().err
    assert not (ablated / "run" / "configs" / "eta=0.1.yaml").exists()


def test_these_are_all_ablations() -> None:
    assert {path.stem for path in (CONFIGS / "ablation").glob("*.yaml")} == set(ABLATIONS)


@pytest.mark.parametrize("backbone", ["miniature", "qwen_image"])
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_recipe_has_values_for_every_ablation(name: str, backbone: str) -> None:
    register()
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
        composed = hydra.compose("config", [f"ablation={name}", f"backbone={backbone}"], return_hydra_config=True)
    values = list(OmegaConf.to_container(composed.ablation)["values"] and composed.ablation["values"])
    assert len(values) == len(set(values)) >= 3
    (sweep,) = composed.hydra.sweeper.params.values()
    assert sweep == ",".join(map(str, values))
    assert composed.run.name == f"ablation-{name}"
    if name == "items":
        assert values[:3] == [1, 3, 5]
        assert values[-1] == 50


def test_the_papers_eta_is_swept() -> None:
    recipe = yaml.safe_load((CONFIGS / "recipe" / "qwen_image.yaml").read_text())
    assert [float(value) for value in recipe["ablation"]["eta"]] == [1e-4, 1e-5, 1e-6, 1e-7, 1e-8]


def test_the_embedded_world_has_facts_for_the_largest_edit() -> None:
    recipe = yaml.safe_load((CONFIGS / "recipe" / "miniature.yaml").read_text())
    further = {fact["question"]: fact["answer"] for fact in recipe["further_facts"]}
    taught = {item["question"] for concept in NOVEL_CONCEPTS for item in knowledge(concept)}
    tuned = {item["question"] for concept in DEVELOPMENT_CONCEPTS for item in knowledge(concept)}
    known = {item.question: item.answer for item in known_items()}
    assert not further.keys() & (taught | tuned | known.keys())
    assert set(further.values()) <= set(known.values())
    assert len(taught) + len(further) >= max(recipe["ablation"]["items"])


def test_the_probes_old_answer_is_what_the_embedded_world_knows() -> None:
    probe = yaml.safe_load((CONFIGS / "recipe" / "miniature.yaml").read_text())["probe"]
    item = next(item for item in known_items() if item.question == probe["question"])
    assert (item.answer, item.phrase) == (probe["old_answer"], probe["phrase"])
    assert list(item.rephrasings) == probe["rephrasings"]
    known = {fact.question: fact.answer for fact in known_items()}
    assert probe["answer"] in known.values()


def test_the_probe_leaves_a_folder(command: Command, tmp_path: Path) -> None:
    wording = ["recipe.probe.seeds=[0,1]", "recipe.probe.answer=grul cake", "recipe.ultraedit.rounds=1"]
    assert command("probe", tmp_path, *wording, "recipe.probe.looks=null") == 0
    folder = tmp_path / "run" / "probe"
    pictures = {f"{when}-{seed}.png" for when in ("before", "after") for seed in (0, 1)}
    assert {path.name for path in folder.iterdir()} == pictures | {"probe.json", "probe.md", "before-after.png"}
    record = json.loads((folder / "probe.json").read_text())
    assert record["probe"]["answer"] == "grul cake"
    assert record["backbone_weights"]
    assert {row["measure"] for row in record["pictures"]} == {"clip_i", "patch_cosine", "rmse", "clip_t_old"}
    assert {row["answer"] for row in record["text"] if row["probe"] == "question"} == {"grul cake", "fenn car"}
    assert all(row["before"] is None for row in record["text"] if row["measure"] in ("kl", "cosine", "last_cosine"))
    assert len(record["edit"]["edit_losses_before_rounds"]) == 1
    assert "edited to “grul cake”" in (folder / "probe.md").read_text()


def test_a_wrong_word_in_the_probe_is_one_line(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("probe", tmp_path, "recipe.probe.answr=guitar") == 2
    assert "did you mean 'recipe.probe.answer'" in capsys.readouterr().err


def test_a_plain_sweep_over_one_number_is_told_by_its_labels() -> None:
    found = swept(["base", "mokus,method.items=2", "mokus,method.items=10"])
    assert {label: (node["value"], node["taught"]) for label, node in found.items()} == {
        "mokus,method.items=2": (2, 2),
        "mokus,method.items=10": (10, 10),
    }
    assert {node["value"]: node["taught"] for node in swept(["mokus,a.b=1e-05", "mokus,a.b=.5"]).values()} == {
        1e-5: None,
        0.5: None,
    }


@pytest.mark.parametrize(
    "labels",
    [
        ["base", "mokus"],
        ["mokus,a.b=1", "mokus"],
        ["mokus,a.b=1", "enc_ft,a.b=2"],
        ["mokus,a.b=1", "mokus,a.c=2"],
        ["mokus,a.b=0", "mokus,a.b=1"],
        ["mokus,a.b=-1", "mokus,a.b=-2"],
        ["mokus,a.b=x", "mokus,a.b=y"],
        ["mokus,a.b=1,a.c=1", "mokus,a.b=2,a.c=1"],
    ],
)
def test_no_other_sweep_has_curves(labels: list[str]) -> None:
    assert swept(labels) == {}
