"""Paths in a configuration: absolute in the objects that are built, as typed in a run's identity."""

from pathlib import Path

import pytest
from ray import cloudpickle

from knowcusbench.config.compose import compose_config, read_config
from knowcusbench.run.prepare import prepare
from knowcusbench.storage.tables import read_json

WORDS = (
    "method=base",
    "run.root=runs",
    "cache_dir=cache",
    "backbone.source=models/backbone",
    "encoders.clip.source=models/clip",
    "encoders.preference.processor=models/clip",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command's working directory, with two checkpoints in it."""
    for name in ("clip", "backbone"):
        (tmp_path / "models" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_built_has_absolute_paths(folder: Path) -> None:
    config, _ = read_config(compose_config([*WORDS, "benchmark=directory", "benchmark.path=models"]))
    assert (config.run.root, config.cache_dir) == (str(folder / "runs"), str(folder / "cache"))
    assert config.benchmark.path == str(folder / "models")
    assert config.backbone["source"] == str(folder / "models/backbone")
    clip = config.metrics["clip_i"]["encoder"]
    assert (clip["source"], clip["store"]) == (str(folder / "models/clip"), str(folder / "cache/embeddings"))
    assert config.effects.encoder == clip
    assert config.metrics["pickscore"]["encoder"]["processor"] == str(folder / "models/clip")


@pytest.mark.parametrize("source", ["owner/name", "Qwen/Qwen-Image", "/some/where", "memory://x/y"])
def test_what_is_no_path_here_stays(source: str, folder: Path) -> None:
    config, _ = read_config(compose_config(["cache_dir=cache", f"backbone.source={source}", "run.root=memory://runs"]))
    assert config.backbone["source"] == source
    assert config.run.root == "memory://runs"


def test_the_home_directory_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    config, _ = read_config(
        compose_config(["run.root='~/runs'", "backbone.source='~/models/backbone'", "cache_dir=cache"])
    )
    assert config.run.root == str(folder / "runs")
    assert config.backbone["source"] == str(folder / "models/backbone")


def test_a_run_is_what_was_typed(folder: Path) -> None:
    config, resolved = read_config(compose_config([*WORDS]))
    run = prepare(config, resolved, makes_results=True)
    recorded = read_json(run.store.identity)
    assert recorded["backbone"]["source"] == "models/backbone"
    assert cloudpickle.loads(cloudpickle.dumps(run)).store == run.store, "workers get the run"
    assert recorded["metrics"]["clip_i"]["encoder"]["source"] == "models/clip"
    typed = [word if word != "cache_dir=cache" else f"cache_dir={folder}/cache" for word in WORDS]
    again = prepare(*read_config(compose_config(typed)), makes_results=True)
    assert again.protocols == run.protocols
