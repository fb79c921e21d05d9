"""The recipe's command: stages, and the installation of their results."""

import json
from pathlib import Path

import pytest

from knowcusbench.toybox import TRAINED, shipped
from knowcusbench.toybox.shipped import MANIFEST, check_weights, world_digest
from knowcusbench.toymaker import __main__ as recipe


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a replacement for the package's folder of weights."""
    for module in (recipe, shipped):
        monkeypatch.setattr(module, "WEIGHTS", tmp_path / "package" / "weights")
    (tmp_path / "package").mkdir()
    return tmp_path / "package" / "weights"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a workshop folder with all parts."""
    for part in TRAINED:
        (tmp_path / "shop" / "parts" / part).mkdir(parents=True)
        (tmp_path / "shop" / "parts" / part / "model.safetensors").write_bytes(part.encode())
    (tmp_path / "shop" / "vae").mkdir()
    losses = [{"step": 50 * n, "square": 1 / n} for n in range(1, 101)]
    record = {"schedule": {"steps": 5000, "seed": 0}, "seconds": 1.0, "step": 5000, "losses": losses}
    (tmp_path / "shop" / "vae" / "losses.json").write_text(json.dumps(record))
    return tmp_path / "shop"


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["make toybox", "--device", "cpu", *map(str, words)])
    try:
        recipe.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_parts_are_installed_with_their_digests_and_history(
    weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "--folder", folder, "install") == 0
    for part in TRAINED:
        check_weights(weights, part, world_digest())
        assert (weights / part / "model.safetensors").read_bytes() == part.encode()
    vae = json.loads((weights / MANIFEST).read_text())["training"]["stages"]["vae"]
    assert vae["schedule"]["steps"] == 5000
    assert vae["losses"][-1] == {"step": 5000, "square": 0.01}
    assert len(vae["losses"]) <= 22


def test_shipped_weights_are_replaced_only_by_force(
    weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--folder", folder, "install") == 0
    (folder / "parts" / "sam" / "model.safetensors").write_bytes(b"new")
    assert run(monkeypatch, "--folder", folder, "install") == 2
    assert "there are weights already; --force" in capsys.readouterr().err
    assert (weights / "sam" / "model.safetensors").read_bytes() == b"sam"
    assert run(monkeypatch, "--folder", folder, "--force", "install") == 0
    assert (weights / "sam" / "model.safetensors").read_bytes() == b"new"
    check_weights(weights, "sam", world_digest())


def test_an_interrupted_installation_leaves_nothing_to_the_next(
    weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights.with_name("weights.new") / "sam").mkdir(parents=True)
    (weights.with_name("weights.new") / "sam" / "model.safetensors").write_bytes(b"old")
    assert run(monkeypatch, "--folder", folder, "install") == 0
    assert (weights / "sam" / "model.safetensors").read_bytes() == b"sam"
    assert [path.name for path in weights.parent.iterdir()] == ["weights"]


def test_a_stage_that_is_not_at_its_end_is_not_installed(
    weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((folder / "vae" / "losses.json").read_text())
    (folder / "vae" / "losses.json").write_text(json.dumps(record | {"step": 4950}))
    assert run(monkeypatch, "--folder", folder, "install") == 2
    assert "losses.json: step 4950 of 5000; run the stage" in capsys.readouterr().err
    assert not weights.exists()


def test_what_is_missing_is_named(
    weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "parts" / "clip").rename(folder / "elsewhere")
    assert run(monkeypatch, "--folder", folder, "install") == 2
    assert "has no clip; run the stages" in capsys.readouterr().err
    assert not weights.exists()


def test_too_large_parts_are_refused(
    weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recipe, "LIMIT", 20)
    assert run(monkeypatch, "--folder", folder, "install") == 2
    assert "more than the 0 MB that may ship" in capsys.readouterr().err


def test_an_unknown_stage_is_named_before_anything_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--folder", folder, "vea", "install") == 2
    assert "vea: no such stage; there are vae, lm," in capsys.readouterr().err


def test_a_stage_that_is_done_is_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--folder", folder, "oracle", "clip") == 0
    printed = capsys.readouterr().out
    assert "oracle: done before" in printed
    assert "clip: done before" in printed
