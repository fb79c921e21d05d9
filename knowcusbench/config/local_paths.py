"""Paths of this machine in a configuration: absolute, since the workers of a cluster may run in another folder."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from knowcusbench.config.schema import Config
from knowcusbench.storage.files import is_remote, local_path, location

CHECKPOINTS = ("source", "processor", "checkpoint")
"""Keys of a plug-in's configuration that name a path of this machine, or something else, as a hub id."""

FOLDERS = ("store",)
"""Keys that name a path of this machine in any case."""


def with_absolute_paths(config: Config) -> Config:
    """The same configuration, with absolute paths wherever it names this machine's.

    What a run records of itself, and what its identity is made of, stays as it was typed: this is for the objects that
    are built.
    """
    nodes = {entry.name: _absolute(getattr(config, entry.name)) for entry in fields(config)}
    benchmark = config.benchmark
    return replace(
        config,
        **nodes
        | {
            "run": replace(config.run, root=absolute(config.run.root)),
            "effects": replace(config.effects, encoder=_absolute(config.effects.encoder)),
            "benchmark": replace(benchmark, path=benchmark.path and absolute(benchmark.path)),
            "cache_dir": absolute(config.cache_dir),
        },
    )


def absolute(text: str) -> str:
    """A path of this machine from its root on; a URL of another file system as it is."""
    place = location(text)
    return text if is_remote(place) else str(place.absolute())


def _absolute(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _absolute_value(str(key), value) for key, value in node.items()}
    return [_absolute(value) for value in node] if isinstance(node, list) else node


def _absolute_value(key: str, value: Any) -> Any:
    if isinstance(value, str) and key in CHECKPOINTS:
        return absolute(value) if local_path(value).exists() else value
    return absolute(value) if isinstance(value, str) and key in FOLDERS else _absolute(value)
