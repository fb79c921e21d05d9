"""The README's examples run as printed; its method keeps the contract."""

import importlib
import inspect
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import yaml

from knowcusbench.adaptation.dreambooth import DreamBooth
from knowcusbench.testing import check_method

README = Path(__file__).parents[1] / "README.md"
MODULE = "knowcusbench.methods.my_method"


def block(language: str, heading: str = "Add your method") -> str:
    """The first code block of a language under a heading."""
    section = README.read_text().partition(f"## {heading}")[2]
    return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture
def my_method(monkeypatch):
    importlib.import_module("knowcusbench.methods")
    module = types.ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    exec(compile(block("python"), MODULE, "exec"), module.__dict__)
    return module


def test_the_example_is_under_thirty_lines():
    assert len((block("python") + block("yaml")).splitlines()) < 30


def test_the_example_keeps_the_contract(my_method, backbone, dog, tmp_path):
    dreambooth = DreamBooth(steps=1, learning_rate=1e-3, rank=2, alpha=2)
    check_method(my_method.MyMethod(dreambooth=dreambooth), backbone, dog, tmp_path)


@pytest.mark.command
def test_the_example_runs_from_its_yaml(my_method, tmp_path, sample_benchmark, monkeypatch):
    from knowcusbench.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "method").mkdir(parents=True)
    (tmp_path / "configs" / "method" / "my_method.yaml").write_text(block("yaml"))
    assert yaml.safe_load(block("yaml"))["_target_"] == f"{MODULE}.MyMethod"
    grid = (
        "effects.enabled=false grid.concepts=[dog3] grid.knowledge_items=1 grid.seeds=[0] grid.tasks=[reconstruction]"
    )
    words = f"--config-dir configs method=my_method recipe.dreambooth.steps=1 backbone.steps=2 metrics=[clip_i] {grid}"
    main(["bench", *words.split(), f"benchmark.path={sample_benchmark}", f"cache_dir={tmp_path}/cache"])
    assert len(list((tmp_path / "results" / "runs" / "default" / "images" / "my_method").rglob("*.png"))) == 1


def test_the_example_from_python_is_understood(tmp_path, monkeypatch, capsys):
    """Its calls are those of the functions; its results are read from a small run, copied for each method."""
    import knowcusbench as kb
    from knowcusbench.config.compose import compose_config
    from knowcusbench.toybox.world.concepts import NOVEL_CONCEPTS

    recorded = README.parent / "tests" / "data" / "run_before_versions"
    bench, score = (inspect.signature(getattr(kb, name)) for name in ("bench", "score"))

    def make(*positional, **named):
        call = bench.bind(*positional, **named).arguments
        assert {*call["concepts"]} <= {concept.name for concept in NOVEL_CONCEPTS}
        run = Path("results", "runs", call["name"])
        shutil.copytree(recorded, run)
        for method in {*call["method"]} - {"base"}:
            compose_config([f"method={method}"])
            for path in run.glob("*/base"):
                shutil.copytree(path, path.with_name(method))
            configuration = (run / "configs" / "base.yaml").read_text()
            (run / "configs" / f"{method}.yaml").write_text(configuration.replace("label: base", f"label: {method}"))
        return kb.open_run(run)

    def read(*positional, **named):
        compose_config([f"protocol={score.bind(*positional, **named).arguments['protocol']}"])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kb, "bench", make)
    monkeypatch.setattr(kb, "score", read)
    found = {}
    exec(compile(block("python", "Use it from Python"), "example", "exec"), found)
    assert {"base", "mokus"} <= {*found["results"].methods.index}
    assert len(found["results"].images("mokus")) == 2
    assert "clip_i" in capsys.readouterr().out
