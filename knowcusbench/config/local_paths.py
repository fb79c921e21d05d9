"""Absolute paths for files of this machine in a configuration: a cluster's workers may run in another directory."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from knowcusbench.config.schema import Config
from knowcusbench.storage.files import is_remote, local_path, location

CHECKPOINTS = ("source", "processor", "checkpoint")
"""Keys of a plug-in's configuration whose value is either a path of this machine or something else, such as a hub id.
"""

FOLDERS = ("store",)
"""Keys whose value is always a path of this machine."""


def with_absolute_paths(config: Config) -> Config:
    """Return the same configuration with absolute paths for files of this machine.

    This is for the objects that are built. A run's records and its identity keep paths as they were typed.
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
    """Return the absolute form of a path of this machine; a URL of another file system is unchanged."""
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
