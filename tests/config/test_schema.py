import os
from dataclasses import dataclass, field

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from knowcusbench.cli.run import run_verb
from knowcusbench.config.build import build
from knowcusbench.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float
    layers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    steps: int = 1
    names: list[str] = field(default_factory=list)


HERE = __name__


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Make this module importable by name, which pytest's importlib mode does not."""
    import sys

    monkeypatch.setitem(sys.modules, "made_up", sys.modules[HERE])


def node(**changes):
    inner = {"_target_": "made_up.Inner", "rate": 1e-4, "layers": [1, 2]}
    return OmegaConf.create({"_target_": "made_up.Outer", "inner": inner, **changes})


def test_nested_nodes_become_objects_of_their_types():
    assert build(node(steps=3), "method") == Outer(inner=Inner(rate=1e-4, layers=(1, 2)), steps=3)


def test_numbers_as_yaml_reads_them_are_converted():
    """YAML reads 2e-4 as a string."""
    made = build({"_target_": "made_up.Inner", "rate": "2e-4"}, "recipe")
    assert made.rate == 2e-4


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"step": 3}, "method.step: unknown key; did you mean 'steps'"),
        ({"steps": "many"}, "method.steps: .*integer.*'many'"),
        ({"steps": 1.5}, "method.steps"),
        ({"names": "one"}, "method.names"),
        ({"inner": {"_target_": "made_up.Inner"}}, "method.inner.rate: missing"),
        ({"inner": {"_target_": "made_up.Inner", "rate": "x"}}, "method.inner.rate"),
        ({"inner": {"_target_": "made_up.Other"}}, "method.inner._target_: can't import"),
        ({"inner": {"_target_": "nowhere.Other"}}, "method.inner._target_: can't import"),
        ({"inner": {"_target_": "Other"}}, "method.inner._target_"),
        ({"inner": {"_target_": "made_up.node"}}, "not a dataclass"),
        ({"inner": 3}, "method.inner"),
    ],
)
def test_a_wrong_key_or_value_is_named_in_full(changed, named):
    with pytest.raises(ConfigError, match=named) as caught:
        build(node(**changed), "method")
    assert "\n" not in str(caught.value)


def test_the_nearest_known_word_is_suggested():
    assert did_you_mean("mokuss", ["base", "mokus"]) == "; did you mean 'mokus'?"
    assert did_you_mean("xyz", ["base", "mokus"]) == "; known: base, mokus"


def test_a_command_without_a_sweep_is_composed_once(monkeypatch, tmp_path):
    """Holds also together with options for Hydra itself."""
    composed, run = [], []
    load = ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", lambda *a, **k: composed.append(a) or load(*a, **k))
    monkeypatch.setattr(
        "knowcusbench.stages.run.run_stages",
        lambda verb, config, command: run.append((verb, config.method._target_, os.environ.get("MADE_UP"))),
    )
    monkeypatch.chdir(tmp_path)
    run_verb("plan", ["method=base", "+hydra.job.env_set.MADE_UP=there"])
    assert run == [("plan", "knowcusbench.baselines.Base", "there")]
    assert len(composed) == 1
