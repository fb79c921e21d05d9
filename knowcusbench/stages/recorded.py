"""A run as it lies there: the configuration that it was made with."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from knowcusbench.config import Config, did_you_mean
from knowcusbench.errors import ConfigError, RunError
from knowcusbench.files import names_in
from knowcusbench.stages.identity import decisive
from knowcusbench.store import RunStore

FREE = ("run", "report", "tracker", "benchmark", "hydra", "cache_dir", "engine", "device", "cpu_threads")
"""The keys that what only reads a run takes from the command, or that say nothing about results."""


def recorded_config(composed: DictConfig, words: Sequence[str] = ()) -> DictConfig:
    """The configuration that a run directory was made with, all its metrics included; only where it and its benchmark
    lie and what the report shows is taken from `composed`.

    Args:
        composed: the configuration of the command.
        words: its overrides.

    Raises RunError if nothing was made there yet, and ConfigError for an override that says something else than the run
    and would have no effect.
    """
    store = RunStore.of(composed.run)
    recorded = [OmegaConf.create(store.config(label).read_text(encoding="utf-8")) for label in store.labels()]
    if not recorded:
        place = store.root.parent
        runs = [name for name in names_in(place) if RunStore(place / name).labels() and name != store.root.name]
        others = did_you_mean(store.root.name, runs) if runs else ""
        raise RunError(
            f"{store.root} has no results to report; make some with `knowcusbench bench`, or name another run{others}"
        )
    for word in words:
        _refuse_without_effect(word, composed, recorded)
    metrics = OmegaConf.merge(*(config.metrics for config in recorded))
    shown = {key: value for key, value in composed.report.items() if key != "truth"}
    now: dict[str, Any] = {"metrics": metrics, "run": composed.run, "report": shown}
    if any(_key(word).startswith("benchmark.") for word in words):
        source = ("path", "repo", "revision")
        now["benchmark"] = {key: OmegaConf.select(composed, f"benchmark.{key}") for key in source}
    merged = OmegaConf.merge(OmegaConf.structured(Config), recorded[0], now)
    assert isinstance(merged, DictConfig)
    merged.tracker = composed.tracker
    return merged


def _key(word: str) -> str:
    """The key of an override."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")


def _refuse_without_effect(word: str, composed: DictConfig, recorded: Sequence[Any]) -> None:
    key = _key(word)
    if key.split(".")[0] in FREE and key != "report.truth":
        return
    said = _plain(composed, key)
    if said not in [_plain(config, key) for config in recorded]:
        hint = "; report.columns= chooses what is shown" if key == "metrics" else ""
        raise ConfigError(
            f"{word}: has no effect here, the run's own {key} holds; only run.*, report.*, tracker.* and "
            f"benchmark.path can be chosen{hint}"
        )


def _plain(config: Any, key: str) -> Any:
    """A part of a configuration as plain data that can be compared."""
    node = OmegaConf.select(config, key)
    plain = OmegaConf.to_container(node, resolve=True, enum_to_str=True) if OmegaConf.is_config(node) else node
    return decisive(getattr(plain, "name", plain), config.cache_dir)
