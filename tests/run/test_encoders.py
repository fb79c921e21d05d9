"""A branch of an encoder stands for one commit throughout a run."""

import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.pickscore import PickScore
from knowcusbench.run.encoders import settle_commits, with_recorded_commits
from knowcusbench.run.layout import RunStore
from knowcusbench.storage.hub_cache import Branch

FIRST, SECOND = "0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"


@dataclass(frozen=True)
class Part:
    """The part of a run that has encoders."""

    store: RunStore
    metrics: dict[str, Any]
    effects: Any


@dataclass(frozen=True)
class Effects:
    encoder: Any


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def commit(hub: Path, name: str, revision: str, *files: str) -> None:
    """Put a commit of a repository into the cache, and point its main branch to it."""
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "snapshots" / revision).mkdir(parents=True)
    for file in files:
        (repository / "snapshots" / revision / file).write_text("{}")
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(revision)


CLIP = ("open_clip_config.json", "open_clip_model.safetensors")
PICK = ("config.json", "model.safetensors")


@pytest.fixture
def part(hub: Path, tmp_path: Path) -> Part:
    """Return metrics and effects whose encoders name the main branch, explicitly, by default and by its commit."""
    commit(hub, "tests/clip", FIRST, *CLIP)
    commit(hub, "tests/pick", FIRST, *PICK)
    commit(hub, "tests/pinned", FIRST, *CLIP)
    pick = TransformersClipSpec(source="tests/pick", processor="tests/clip", processor_revision="main")
    metrics = {
        "clip_i": ClipI(encoder=ClipSpec(source="tests/clip", revision="main")),
        "pickscore": PickScore(encoder=pick),
    }
    pinned = Effects(ClipSpec(source="tests/pinned", revision=FIRST))
    return Part(RunStore(tmp_path / "run"), metrics, pinned)


def test_a_branch_is_settled_once_recorded_and_the_same_in_every_worker(part: Part, capsys) -> None:
    settled = settle_commits(part)
    recorded = json.loads(part.store.encoders.read_text())
    assert recorded == {"tests/clip@main": FIRST, "tests/pick@main": FIRST}
    assert settled.effects.encoder is part.effects.encoder
    for name in part.metrics:
        worker = pickle.loads(pickle.dumps(settled.metrics[name]))
        assert worker.weights() == settled.metrics[name].weights() == part.metrics[name].weights()
        # Earlier embeddings stay valid.
        assert worker.encoder.key == part.metrics[name].encoder.key
    assert settled.metrics["clip_i"].encoder.revision == "main"
    assert capsys.readouterr().err == ""


def test_a_run_stays_with_its_commit_when_the_branch_moves_and_says_so(part: Part, hub: Path, capsys) -> None:
    settle_commits(part)
    commit(hub, "tests/clip", SECOND, *CLIP)
    later = settle_commits(part)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"tests/clip@main was at {FIRST} when the run began and is at {SECOND} now" in line
    for run in (later, with_recorded_commits(part)):
        worker = pickle.loads(pickle.dumps(run.metrics["clip_i"]))
        assert worker.weights() == {"tests/clip": f"commit:{FIRST}"}
        assert worker.encoder.key != part.metrics["clip_i"].encoder.key
    assert part.metrics["clip_i"].weights() == {"tests/clip": f"commit:{SECOND}"}
    other = settle_commits(replace(part, store=RunStore(part.store.root.parent / "other")))
    assert other.metrics["clip_i"].weights() == {"tests/clip": f"commit:{SECOND}"}


def test_an_encoder_that_comes_later_is_added(part: Part) -> None:
    settle_commits(replace(part, metrics={"clip_i": part.metrics["clip_i"]}))
    assert json.loads(part.store.encoders.read_text()) == {"tests/clip@main": FIRST}
    settle_commits(part)
    assert set(json.loads(part.store.encoders.read_text())) == {"tests/clip@main", "tests/pick@main"}


def test_what_nobody_knows_is_left_for_who_loads_it(part: Part, tmp_path: Path) -> None:
    local = Effects(ClipSpec(source=str(tmp_path)))
    unknown = {"clip_i": ClipI(encoder=ClipSpec(source="tests/other"))}
    found = settle_commits(replace(part, metrics=unknown, effects=local))
    assert found.metrics == unknown
    assert not isinstance(found.metrics["clip_i"].encoder.revision, Branch)
    assert not part.store.encoders.exists()


def test_the_hub_is_asked_for_the_commit_of_a_branch(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def model_info(_: object, source: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        asked.append((source, revision))
        return SimpleNamespace(sha=SECOND)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    settle_commits(part)
    assert asked == [("tests/clip", "main"), ("tests/pick", None)]
    assert set(json.loads(part.store.encoders.read_text()).values()) == {SECOND}
