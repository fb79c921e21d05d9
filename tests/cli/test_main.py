"""The command as a user types it: what works, and what errors say."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub.constants
import pandas as pd
import pytest
from PIL import Image

from knowcusbench.cli.main import VERBS, main

SMALL = (
    "recipe.dreambooth.steps=1",
    "recipe.naive_db.steps=1",
    "backbone.steps=2",
    "grid.concepts=[dog3]",
    "grid.knowledge_items=1",
    "grid.prompts=1",
    "grid.seeds=[0]",
    "metrics=[clip_i]",
    "effects.enabled=false",
)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def call(tmp_path, cache_dir, sample_benchmark, capsys, monkeypatch):
    """`call("bench", "key=value")` -> (exit code, standard output, standard error). Nothing reaches the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def run(verb: str, *words: str):
        words = list(words)
        if verb in ("bench", "plan", "adapt", "generate", "score", "effects", "report") and "--help" not in words:
            shared = [f"cache_dir={cache_dir}", f"benchmark.path={sample_benchmark}", *SMALL]
            given = {word.split("=")[0] for word in words}
            words = [word for word in shared if word.split("=")[0] not in given] + words
        try:
            main([verb, *words])
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture
def release(sample_benchmark, tmp_path):
    """A copy of one concept of the sample benchmark, to be damaged."""
    root = tmp_path / "release"
    shutil.copytree(sample_benchmark / "concept_image" / "dog3", root / "concept_image" / "dog3")
    (root / "knowledge_data").mkdir()
    shutil.copy(sample_benchmark / "knowledge_data" / "dog3.json", root / "knowledge_data")
    records = json.loads((sample_benchmark / "concept_image" / "dataset.json").read_text())
    own = [record for record in records if record["concept"] == "dog3"]
    (root / "concept_image" / "dataset.json").write_text(json.dumps(own))
    return root


def last_line(text: str) -> str:
    return [line for line in text.splitlines() if line.strip()][-1]


WRONG_WORDS = [
    (("bnch",), "unknown verb 'bnch'; did you mean 'bench'"),
    (("bench", "grid.seed=[1]"), "grid.seed: unknown key; did you mean 'grid.seeds'"),
    (("bench", "+grid.seed=[1]"), "grid.seed: unknown key; did you mean 'seeds'"),
    (("bench", "metod=mokus"), "metod: unknown key; did you mean 'method'"),
    (("bench", "recipe.dreambooth.step=4"), "did you mean 'recipe.dreambooth.steps'"),
    (("bench", "+method.dreamboth=4"), "method.dreamboth: unknown key; did you mean 'dreambooth'"),
    (("bench", "grid.seeds=abc"), "grid.seeds: a list is expected, as in"),
    (("bench", "grid.knowledge_items=x"), "grid.knowledge_items: Value 'x'"),
    (("bench", "grid.pairing=all"), "grid.pairing: Invalid value 'all', expected one of"),
    (("bench", "recipe.dreambooth.steps=many"), "dreambooth.steps: .*valid integer.*'many'"),
    (("bench", "grid.seeds=[1"), "not an override"),
    (("bench", "mokus"), "mokus: not an override, expected key=value"),
    (("bench", "method=mokuss"), "method=mokuss: no such option; did you mean 'mokus'"),
    (("bench", "metrics=[clip_x]"), "metrics=clip_x: no such option; did you mean 'clip_"),
    (
        ("bench", "tracker=null"),
        "tracker=null: expected the name of an option; leave tracker= out for none, or",
    ),
    (("plan", "-m", "tracker=null,wandb"), "tracker=null,wandb: expected the name of an option; leave tracker= out"),
    (("bench", "tracker=none"), "tracker=none: no such option; known: mlflow, .*; leave tracker= out for none"),
    (("plan", "method=null"), "method=null: expected the name of an option; take one of anchor, base,"),
    (("plan", "encoders/segmenter=null"), "expected the name of an option; take one of miniature, sam,"),
    (("plan", "metrics=[clip_i,null]"), r"metrics=\[clip_i,null\]: expected the name of an option"),
    (("plan", "method=[base,mokus]"), r"method=\[base,mokus\]: takes one option; give them with commas and -m"),
    (("bench", "metrics=[dino_i]"), r"encoders\.dino\.source has no value.*give it a directory or hub id"),
    (("bench", "method=base,mokus"), "method=base,mokus: several values; add -m"),
    (("bench", "benchmark=directory", "benchmark.path=null"), "benchmark.path"),
    (("bench", "benchmark.path=nowhere"), "nowhere"),
    (("bench", "benchmark=hub", "benchmark.path=null", "benchmark.repo=a/b", "benchmark.revision=null"), "revision"),
    (
        ("bench", "benchmark=hub", "benchmark.path=null", "benchmark.repo=no/such", f"benchmark.revision={'0' * 40}"),
        "no/such",
    ),
    (("bench", "grid.concepts=[cat]"), "'cat' matches no concept"),
    (("bench", "backbone.source=nobody/nothing"), "nobody/nothing"),
    (("bench", "backbone.height=60"), "60"),
    (("bench", "editor.layers=[99]"), "layer 99"),
    (("bench", "device=warp"), "device: 'warp' is not a device"),
    (("bench", "run.root=/proc/runs"), "can't write /proc/runs"),
    (("bench", "cache_dir=/proc/cache"), "can't write /proc/cache"),
    (("plan", "run.label=v1/base"), "run.label: 'v1/base' can't be a file name: it has a path separator"),
    (("plan", "run.label=../../esc"), "run.label: '../../esc' can't be"),
    (("plan", "run.name="), "run.name: '' can't be a file name: it is empty"),
    (("report", "run.name=../climbed"), "run.name: '../climbed' can't be"),
    (("plan", "grid.concepts=[]"), "grid.concepts: expected at least one"),
    (("plan", "grid.seeds=[99999999999999999999]"), "grid.seeds: 99999999999999999999 is no 64-bit number"),
    (("generate", "method=base"), "no adaptation .*; run `knowcusbench adapt` first"),
    (("check", "nowhere"), "nowhere"),
    (("check",), "usage: knowcusbench check PATH"),
    (("convert", "nowhere", "somewhere"), "nowhere"),
]


@pytest.mark.parametrize(("words", "named"), WRONG_WORDS, ids=lambda value: " ".join(value)[:50])
def test_a_wrong_word_is_one_line_and_exit_code_2(call, words, named):
    code, _, error = call(*words)
    assert code == 2
    assert re.search(named, error), error
    assert last_line(error).startswith("knowcusbench: ")
    assert len([line for line in error.splitlines() if line.startswith("knowcusbench: ")]) == 1
    assert "Traceback" not in error


def test_a_home_that_takes_no_files_is_one_line(call, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nobody")
    code, _, error = call("bench", 'cache_dir="~/.cache/knowcusbench"', "benchmark=embedded", "benchmark.path=null")
    assert code == 2
    assert "can't write /proc/nobody" in last_line(error)


def test_a_run_goes_on_only_with_its_data_set_and_says_what_of_which_concept_differs(call, release):
    words = (f"benchmark.path={release}", "run.name=c42")
    assert call("plan", *words)[0] == 0
    text = (release / "concept_image" / "dataset.json").read_text()
    (release / "concept_image" / "dataset.json").write_text(text.replace("{}", "my {}", 1))
    code, _, error = call("plan", *words)
    assert code == 2
    assert "was made with another configuration (benchmark: " in last_line(error)
    assert "concepts.dog3.prompts: " in last_line(error)
    assert "concepts.dog3.images" not in error
    assert "concepts.dog3.knowledge" not in error


def drop(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


WRONG_FILES = [
    ("concept_image/dog3/00.jpg", truncate, "00.jpg"),
    ("concept_image/dog3/00.jpg", lambda path: path.write_text("no image"), "00.jpg"),
    ("concept_image/dog3/00.jpg", lambda path: Image.new("1", (20_000, 20_000)).save(path, "PNG"), "bomb"),
    ("concept_image/dataset.json", drop, "dataset.json"),
    ("concept_image/dataset.json", lambda path: path.write_text('[{"concept": }'), "line 1"),
    ("concept_image/dataset.json", lambda path: path.write_bytes(b'["\xff"]'), "UTF-8"),
    ("concept_image/dataset.json", lambda path: path.write_text(path.read_text().replace("{}", "it")), "{}"),
    (
        "concept_image/dataset.json",
        lambda path: path.write_text(path.read_text().replace('"dog3"', '"../x"')),
        "../x",
    ),
    ("knowledge_data/dog3.json", drop, "dog3.json"),
    ("knowledge_data/dog3.json", lambda path: path.write_text("[]"), "knowledge"),
    ("knowledge_data/dog3.json", lambda path: path.write_text('[{"question": 3}]'), "question"),
]


@pytest.mark.parametrize(("file", "damage", "named"), WRONG_FILES)
def test_a_damaged_benchmark_is_refused_by_check_and_by_bench(call, release, file, damage, named):
    damage(release / file)
    code, listed, error = call("check", str(release))
    assert code == 2
    assert named in listed + error
    code, _, error = call("bench", f"benchmark.path={release}")
    assert code == 2
    assert named in error
    assert "Traceback" not in error


def test_a_mistake_leaves_earlier_results_as_they_are(call, tmp_path):
    assert call("bench", "method=base")[0] == 0
    run = tmp_path / "results" / "runs" / "default"
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}
    assert len(list((run / "images").rglob("*.png"))) == 2
    for words in (("grid.seeds=[0,1]",), ("method=mokuss",), ("backbone.steps=3",), ("grid.concepts=[cat]",)):
        assert call("bench", "method=base", *words)[0] == 2
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before


def test_an_altered_adapter_is_named(call, tmp_path):
    assert call("adapt", "method=anchor")[0] == 0
    weights = next((tmp_path / "results").rglob("adapter_model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    code, _, error = call("generate", "method=anchor")
    assert code == 2
    assert "adapter_model.safetensors" in error


def test_a_damaged_image_of_the_run_is_named(call, tmp_path):
    assert call("adapt", "method=base")[0] == 0
    assert call("generate", "method=base")[0] == 0
    image = next((tmp_path / "results").rglob("images/**/*.png"))
    image.write_bytes(image.read_bytes()[:200])
    code, _, error = call("score", "method=base")
    assert code == 3
    told, last = [line for line in error.splitlines() if line.startswith("knowcusbench:")]
    assert image.name in told
    assert "no score" in last, last
    assert "remove the file, and `knowcusbench bench` draws it again" in told


def test_check_prints_statistics(call, sample_benchmark):
    code, listed, _ = call("check", str(sample_benchmark))
    assert code == 0
    for number in ("22", "20", "550", "100"):
        assert number in listed


def test_plan_prints_counts_and_costs_without_loading_weights(call, tmp_path):
    code, listed, _ = call("plan", "grid.concepts=['*']", "grid.knowledge_items=null", "grid.prompts=null")
    assert code == 0
    assert "20 samples" in listed
    assert "110 samples" in listed
    assert "GPU-hours" in listed
    assert (tmp_path / "results" / "runs" / "default" / "plan.parquet").exists()


def test_convert_goes_to_parquet_and_back(call, release, tmp_path):
    assert call("convert", str(release), str(tmp_path / "parquet"))[0] == 0
    assert call("convert", str(tmp_path / "parquet"), str(tmp_path / "again"))[0] == 0
    images = "concept_image/dog3"
    for image in (release / images).iterdir():
        assert (tmp_path / "again" / images / image.name).read_bytes() == image.read_bytes()


def test_help_names_every_verb(call):
    code, listed, _ = call("--help")
    assert code == 0
    for verb in VERBS:
        assert verb in listed


def test_the_composed_configuration_is_printed(call):
    code, listed, _ = call("bench", "--cfg", "job", "method=enc_ft")
    assert code == 0
    assert "EncFT" in listed


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("knowcusbench be", ["bench"]),
        ("knowcusbench bench method=mo", ["method=mokus"]),
        (
            "knowcusbench plan backbone=q",
            ["backbone=qwen_image", "backbone=qwen_image_21", "backbone=qwen_image_lightning"],
        ),
        ("knowcusbench bench grid.pai", ["grid.pairing="]),
    ],
)
def test_the_shell_completes_verbs_options_and_keys(call, monkeypatch, typed, offered):
    monkeypatch.setenv("COMP_LINE", typed)
    monkeypatch.setenv("COMP_POINT", str(len(typed)))
    assert call("-sc", "query=bash")[1].split() == offered


def test_choosing_the_backbone_chooses_its_recipe_and_encoders(call):
    _, listed, _ = call("plan", "--cfg", "job", "backbone=qwen_image", "backbone.steps=50")
    assert "yuvalkirstain/PickScore_v1" in listed
    assert "learning_rate: 0.0002" in listed
    _, listed, _ = call("plan", "--cfg", "job", "backbone=qwen_image", "recipe=miniature")
    assert "learning_rate: 0.002" in listed


@pytest.mark.command
def test_another_package_adds_a_method_and_a_metric(tmp_path, cache_dir, sample_benchmark):
    """Puts a distribution on the path as if installed: one class, one YAML file and one entry point for each."""
    package = tmp_path / "site" / "their_package"
    for group in ("configs/method", "scores/metrics"):
        (package / group).mkdir(parents=True)
    for folder in (package, package / "configs", package / "scores"):
        (folder / "__init__.py").touch()
    (package / "method.py").write_text(
        textwrap.dedent(
            """
            from dataclasses import dataclass
            from knowcusbench.adaptation.method import Method
            from knowcusbench.adapters.types import Adaptation

            @dataclass(frozen=True, kw_only=True)
            class Shout(Method):
                marks: int = 1

                def adapt(self, concept, backbone, cache):
                    return Adaptation()

                def subject(self, concept, item):
                    return item.phrase + "!" * self.marks
            """
        )
    )
    (package / "configs" / "method" / "shout.yaml").write_text("_target_: their_package.method.Shout\nmarks: 2\n")
    (package / "metric.py").write_text(
        textwrap.dedent(
            """
            from dataclasses import dataclass
            from typing import ClassVar
            from knowcusbench.storage.images import read_image
            from knowcusbench.metrics.base import Metric, Score

            @dataclass(frozen=True, kw_only=True)
            class Width(Metric):
                name: ClassVar[str] = "width"
                title: ClassVar[str] = "Width"
                factor: float = 1.0

                def score(self, items):
                    return [Score(self.factor * read_image(item.image).width) for item in items]
            """
        )
    )
    (package / "scores" / "metrics" / "width.yaml").write_text(
        "width:\n  _target_: their_package.metric.Width\n  factor: 0.5\n"
    )
    metadata = tmp_path / "site" / "their_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their_package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[knowcusbench.configs]\nshout = their_package.configs\nwidth = their_package.scores\n"
    )
    words = ["bench", f"cache_dir={cache_dir}", f"benchmark.path={sample_benchmark}", *SMALL, "method=shout"]
    words[words.index("metrics=[clip_i]")] = "metrics=[clip_i,width]"
    done = subprocess.run(
        [sys.executable, "-m", "knowcusbench", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    prompts = {Image.open(path).text["prompt"] for path in tmp_path.rglob("images/shout/*/*.png")}
    assert len(prompts) == 2
    assert all("!!" in prompt for prompt in prompts)
    (table,) = tmp_path.rglob("scores/shout/width.parquet")
    assert set(pd.read_parquet(table)["value"]) == {32.0}


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_gpu_memory_grows_by_pages_unless_the_user_chose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(variable, "x")
        monkeypatch.delenv(variable)
    main(["help"])
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    monkeypatch.setenv(name, "backend:native")
    main(["help"])
    assert {key: value for key, value in os.environ.items() if "ALLOC_CONF" in key} == {name: "backend:native"}
