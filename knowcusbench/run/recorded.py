"""The records in a run directory: the configuration that the run was made with, and its methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from knowcusbench.adaptation.method import Method, Role
from knowcusbench.analysis.types import Described, MetricHeading
from knowcusbench.benchmark.types import Concept, Task
from knowcusbench.config.build import build
from knowcusbench.config.schema import Config
from knowcusbench.effects.text import QuestionKind
from knowcusbench.errors import ConfigError, RunError, did_you_mean
from knowcusbench.machine.progress import say
from knowcusbench.metrics.bounds import UNBOUNDED, Bounds
from knowcusbench.run.identity import addressed_digests, decisive
from knowcusbench.run.layout import RunStore
from knowcusbench.storage.files import names_in, write_atomic
from knowcusbench.storage.versions import version_of

FREE = ("run", "report", "tracker", "benchmark", "hydra", "cache_dir", "engine", "device", "cpu_threads")
"""Keys that a command that only reads a run may set itself, or that don't affect results."""

RECORD = "record"
"""The extra key of a recorded configuration: the record of the method."""


@dataclass(frozen=True)
class MethodRecord:
    """The record of a method, from which a report is made without the method's code.

    Attributes:
        role: whether it counts as a method, floor or ceiling.
        method: its class, version and settings, as in `run.json`.
        subjects: the words for a concept in prompts, by concept and knowledge item.
        metrics: how the metrics that scored it are shown.
    """

    role: Role
    method: Any
    subjects: Mapping[str, Sequence[str]]
    metrics: Mapping[str, MetricHeading] = field(default_factory=dict)


def record_of(
    method: Method,
    resolved: Mapping[str, Any],
    concepts: Sequence[Concept],
    metrics: Mapping[str, Described] | None = None,
    *,
    version: Callable[[Any], int] = version_of,
) -> MethodRecord:
    """Return the record of the method in a configuration."""
    return MethodRecord(
        role=method.role,
        method=decisive(resolved["method"], resolved["cache_dir"], version),
        subjects={c.name: [method.subject(c, item) for item in c.knowledge] for c in concepts},
        metrics={name: MetricHeading.of(metric) for name, metric in (metrics or {}).items()},
    )


def write_recorded(store: RunStore, label: str, resolved: Mapping[str, Any], record: MethodRecord) -> None:
    """Write a method's configuration and record."""
    headings = {name: _plain_heading(heading) for name, heading in record.metrics.items()}
    said = {**resolved, RECORD: {**asdict(record), "role": record.role.value, "metrics": headings}}
    write_atomic(store.config(label), yaml.safe_dump(said, sort_keys=False, allow_unicode=True).encode())


def read_recorded(store: RunStore, label: str) -> tuple[dict[str, Any], MethodRecord | None]:
    """Return a method's configuration and record; the record is None if an earlier version wrote the configuration."""
    # A report reads the configurations of all methods, and PyYAML's own code is ten times as slow as libyaml.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    config: dict[str, Any] = yaml.load(store.config(label).read_bytes(), Loader=loader)
    record = config.pop(RECORD, None)
    if record is None:
        return config, None
    headings = {name: _read_heading(heading) for name, heading in record.pop("metrics", {}).items()}
    return config, MethodRecord(**{**record, "role": Role(record["role"])}, metrics=headings)


def _plain_heading(heading: MetricHeading) -> dict[str, Any]:
    """Return a heading as plain data; None stands for no bounds."""
    bounds = list(heading.bounds) if heading.bounds.finite else None
    return {**asdict(heading), "tasks": sorted(task.value for task in heading.tasks), "bounds": bounds}


def _read_heading(said: Mapping[str, Any]) -> MetricHeading:
    bounds = Bounds(*said["bounds"]) if said["bounds"] else UNBOUNDED
    return MetricHeading(**{**said, "tasks": frozenset(map(Task, said["tasks"])), "bounds": bounds})


def method_record(store: RunStore, label: str, concepts: Sequence[Concept]) -> MethodRecord:
    """Return the record of a method. Without a record, it is made from the method's class; a line says if that is
    missing."""
    config, record = read_recorded(store, label)
    if record:
        return record
    try:
        method: Method = build(config["method"], f"{store.config(label)}: method")
    except ConfigError as error:
        say(f"{error}; {label} is treated as a method, and its words for concepts in prompts can't be shown")
        return MethodRecord(Role.METHOD, decisive(config["method"], config["cache_dir"]), {})
    # Every class was of version 1 when no records were written.
    return record_of(method, config, concepts, version=lambda cls: 1)


def protocol_nodes(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration nodes that decide each metric's numbers."""
    return {name: [node, resolved["protocol"]["reduction"]] for name, node in resolved["metrics"].items()}


def effects_node(resolved: Mapping[str, Any]) -> Any:
    """Return the configuration nodes that decide the numbers of effects: how they are measured, not whether."""
    effects = {key: value for key, value in resolved["effects"].items() if key not in ("enabled", "interference")}
    return {"locality": resolved["locality"], "effects": effects, "probes": list(QuestionKind)}


def renamed_protocols(store: RunStore) -> dict[str, str]:
    """Return today's digests of the protocols by those that methods of an earlier version recorded."""
    found: dict[str, str] = {}
    for label in store.labels():
        config, record = read_recorded(store, label)
        if record is None and "protocol" in config:
            nodes = [*protocol_nodes(config).values(), effects_node(config)]
            found |= addressed_digests(nodes, config["cache_dir"])
    return found


def recorded_config(composed: DictConfig, words: Sequence[str] = ()) -> DictConfig:
    """Return the configuration that a run directory was made with, including all its metrics.

    Only the locations of the run and its benchmark and the contents of the report are taken from `composed`.

    Args:
        composed: the configuration of the command.
        words: its overrides.

    Raises RunError if nothing was made there yet, and ConfigError for an override that contradicts the run and would
    have no effect.
    """
    store = RunStore.of(composed.run)
    recorded = [OmegaConf.create(read_recorded(store, label)[0]) for label in store.labels()]
    if not recorded:
        place = store.root.parent
        runs = [name for name in names_in(place) if RunStore(place / name).labels() and name != store.root.name]
        others = did_you_mean(store.root.name, runs) if runs else ""
        raise RunError(
            f"{store.root} has no results to report; make some with `knowcusbench bench`, or name another run{others}"
        )
    # The last override of a key counts.
    for word in {_key(word): word for word in words}.values():
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
    """Return the key of an override."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")


def _refuse_without_effect(word: str, composed: DictConfig, recorded: Sequence[Any]) -> None:
    key = _key(word)
    if key.split(".")[0] in FREE and key != "report.truth":
        return
    said = _plain(composed, key)
    if said not in [_plain(config, key) for config in recorded]:
        hint = "; report.columns= chooses what is shown" if key == "metrics" else ""
        raise ConfigError(
            f"{word}: has no effect here: the run's own {key} is used; only run.*, report.*, tracker.* and "
            f"benchmark.path can be chosen{hint}"
        )


def _plain(config: Any, key: str) -> Any:
    """Return a part of a configuration as plain data that can be compared."""
    node = OmegaConf.select(config, key)
    plain = OmegaConf.to_container(node, resolve=True, enum_to_str=True) if OmegaConf.is_config(node) else node
    return decisive(getattr(plain, "name", plain), config.cache_dir)
