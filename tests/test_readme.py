"""The README's example method runs as printed, and keeps the contract."""

import importlib
import re
import sys
import types
from pathlib import Path

import pytest
import yaml

from knowcusbench.adaptation.dreambooth import DreamBooth
from knowcusbench.testing import check_method

README = Path(__file__).parents[1] / "README.md"
MODULE = "knowcusbench.methods.my_method"


def block(language: str) -> str:
    """The first code block of a language under "Add your method"."""
    section = README.read_text().partition("## Add your method")[2]
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
