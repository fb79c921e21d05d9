"""`backbone.dtype=auto`: settled once a run, by its first results, and then kept."""

import json
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig

from knowcusbench.config.compose import compose_config, read_config
from knowcusbench.errors import ConfigError, RunError
from knowcusbench.run.dtype import settle_dtype
from knowcusbench.run.prepare import prepare
from knowcusbench.stages.run import run_stages

pytestmark = pytest.mark.command


@pytest.fixture
def composed(tmp_path: Path, sample_benchmark: Path):
    """`composed("key=value")` -> the configuration of a small run."""

    def compose(*words: str) -> DictConfig:
        place = (f"run.root={tmp_path}", "run.name=run", f"cache_dir={tmp_path / 'cache'}", "run.label=base")
        grid = ("benchmark=directory", f"benchmark.path={sample_benchmark}", "grid.concepts=[dog3]", "metrics=[]")
        return compose_config(["method=base", *place, *grid, *words])

    return compose


@pytest.fixture
def run_json(tmp_path: Path):
    """Return the dtype that the run has recorded."""
    return lambda: json.loads((tmp_path / "run" / "run.json").read_text())["backbone"]["dtype"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """`machine("float32")`: pretend that the machine is fast in this dtype."""

    def fast_in(dtype: str) -> None:
        monkeypatch.setattr("knowcusbench.machine.device.fast_dtype", lambda _: dtype)

    return fast_in


@pytest.fixture(autouse=True)
def nothing_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end where the first stage would begin."""
    monkeypatch.setattr("knowcusbench.stages.run.STAGES", ())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_new_run_takes_what_the_machine_is_fast_in(composed, machine, run_json, tmp_path, capsys, dtype) -> None:
    machine(dtype)
    run_stages("adapt", composed(), [])
    assert run_json() == dtype
    assert yaml.safe_load((tmp_path / "run" / "configs" / "base.yaml").read_text())["backbone"]["dtype"] == dtype
    assert f"backbone.dtype: {dtype} (matrix products here: fp32 " in capsys.readouterr().err


def test_a_run_goes_on_in_its_dtype_and_says_where_that_is_slow(composed, machine, run_json, capsys) -> None:
    machine("bfloat16")
    run_stages("adapt", composed(), [])
    run_stages("adapt", composed("method=leak", "run.label=leak"), [])
    machine("float32")
    capsys.readouterr()
    run_stages("adapt", composed("method=anchor", "run.label=anchor"), [])
    said = capsys.readouterr().err
    assert run_json() == "bfloat16"
    assert "backbone.dtype: bfloat16, as the run was begun, though float32 is faster here" in said
    assert "choose another run.name= for that" in said


def test_another_dtype_that_is_asked_for_is_refused(composed, machine) -> None:
    machine("bfloat16")
    run_stages("adapt", composed(), [])
    run_stages("adapt", composed("backbone.dtype=bfloat16"), [])
    with pytest.raises(RunError, match=r"backbone.dtype: 'bfloat16' there, 'float32' now\); choose another run.name="):
        run_stages("adapt", composed("backbone.dtype=float32"), [])


def test_a_plan_measures_nothing_and_leaves_the_dtype_open(composed, machine, monkeypatch, run_json, capsys) -> None:
    monkeypatch.setattr("knowcusbench.machine.device.fast_dtype", lambda _: pytest.fail("measured"))
    run_stages("plan", composed(), [])
    assert run_json() == "auto"
    machine("float32")
    run_stages("adapt", composed(), [])
    assert run_json() == "float32"
    # From now on a plan uses it.
    monkeypatch.setattr("knowcusbench.machine.device.fast_dtype", lambda _: pytest.fail("measured"))
    capsys.readouterr()
    run_stages("plan", composed(), [])
    in_fp32 = capsys.readouterr().out
    run_stages("plan", composed("run.name=other"), [])
    in_bf16 = capsys.readouterr().out
    weights = [float(out.split("weights  ")[1].split()[0]) for out in (in_fp32, in_bf16)]
    assert weights[0] == pytest.approx(2 * weights[1], rel=1e-3)
    assert "in bfloat16; backbone.dtype=auto is settled by the first command that computes" in in_bf16
    assert "in bfloat16" not in in_fp32


def test_a_plan_that_left_it_open_takes_a_dtype_that_is_asked_for(composed, machine, run_json) -> None:
    run_stages("plan", composed(), [])
    run_stages("plan", composed("backbone.dtype=float32"), [])
    assert run_json() == "float32"
    machine("bfloat16")
    run_stages("adapt", composed(), [])
    assert run_json() == "float32"


def test_two_machines_that_begin_a_run_at_once_agree(composed, machine, monkeypatch, run_json) -> None:
    def meanwhile(_: object) -> str:
        machine("bfloat16")
        prepare(*read_config(settle_dtype(composed(), measure=True)[0]), makes_results=True)
        machine("float32")
        return "float32"

    monkeypatch.setattr("knowcusbench.machine.device.fast_dtype", meanwhile)
    run_stages("adapt", composed(), [])
    assert run_json() == "bfloat16"


def test_other_dtypes_and_backbones_without_one_stay(composed, monkeypatch) -> None:
    monkeypatch.setattr("knowcusbench.machine.device.fast_dtype", lambda _: pytest.fail("measured"))
    for given in (composed("backbone.dtype=bfloat16"), composed("backbone=qwen_image"), composed("~backbone.dtype")):
        assert settle_dtype(given, measure=True) == (given, None)


def test_a_device_that_is_not_there_is_named(composed) -> None:
    with pytest.raises(ConfigError, match="'gpu' is not a device"):
        settle_dtype(composed("device=gpu"), measure=True)
