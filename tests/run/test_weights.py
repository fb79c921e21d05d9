"""A run's record of its weights and libraries."""

import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from knowcusbench.errors import RunError
from knowcusbench.run import checks
from knowcusbench.run.layout import RunStore

BACKBONE = SimpleNamespace(digest="abc")


def test_the_first_backbone_is_recorded_with_its_torch_and_others_are_refused(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    checks.check_weights(store, BACKBONE)
    assert json.loads(store.weights.read_text()) == {"backbone_weights": "abc", "first_torch": version("torch")}
    checks.check_weights(store, BACKBONE)
    with pytest.raises(RunError, match="other backbone weights"):
        checks.check_weights(store, SimpleNamespace(digest="def"))


def test_a_run_that_goes_on_under_another_torch_says_so_in_one_line(tmp_path: Path, capsys, monkeypatch) -> None:
    store = RunStore(tmp_path)
    checks.warn_of_another_torch(store)
    checks.check_weights(store, BACKBONE)
    checks.warn_of_another_torch(store)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(checks, "version", lambda name: "9.9.9")
    checks.warn_of_another_torch(store)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"was begun with torch {version('torch')}, this is 9.9.9" in line
    checks.check_weights(store, BACKBONE)
