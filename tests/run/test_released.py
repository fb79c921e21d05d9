"""The released checkpoints that a method uses are part of a run's identity."""

from dataclasses import replace
from pathlib import Path

import pytest

from knowcusbench.benchmark.types import Concept
from knowcusbench.errors import RunError
from knowcusbench.run.layout import RunStore
from knowcusbench.run.released import check_released

TAKES = {"dreambooth": {"use_released": True}}


@pytest.fixture
def concepts(tmp_path: Path) -> list[Concept]:
    made = []
    for name in ("dog", "cat"):
        folder = tmp_path / "visual_ckpt" / name
        folder.mkdir(parents=True)
        (folder / "x.safetensors").write_bytes(name.encode())
        made.append(Concept(name, name, (), (), (), visual_checkpoint=folder))
    return made


def test_a_replaced_checkpoint_is_named(concepts: list[Concept], tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    check_released(store, "mokus", concepts[:1], TAKES)
    check_released(store, "mokus", [*concepts, replace(concepts[0], name="bare", visual_checkpoint=None)], TAKES)
    assert concepts[1].visual_checkpoint
    (concepts[1].visual_checkpoint / "x.safetensors").write_bytes(b"another")
    with pytest.raises(RunError, match="mokus was made with another visual_ckpt/ of cat"):
        check_released(store, "mokus", concepts, TAKES)
    check_released(store, "other", concepts, TAKES)


def test_a_method_that_takes_none_leaves_no_record(concepts: list[Concept], tmp_path: Path) -> None:
    check_released(RunStore(tmp_path / "run"), "mokus", concepts, {"dreambooth": {"use_released": False}})
    assert not (tmp_path / "run").exists()
