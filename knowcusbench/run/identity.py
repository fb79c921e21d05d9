"""The part of a configuration that decides results, in the form of `run.json`, and digests of it.

A class is identified by its name and version, so that its file may move. Records of format 1 have its import path
instead.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from knowcusbench.benchmark.digests import concept_digests
from knowcusbench.benchmark.types import Benchmark
from knowcusbench.config.build import import_target
from knowcusbench.errors import ConfigError
from knowcusbench.run.layout import RunStore
from knowcusbench.storage.digests import json_digest
from knowcusbench.storage.tables import read_json
from knowcusbench.storage.versions import decisive_fields, version_of

FORMAT = 2
"""Version of the run directory's layout."""

ADDRESSED = 1
"""The format of records that identify classes by import path, without versions."""

ADDRESS, CLASS, VERSION = "_target_", "_class_", "_version_"
"""Keys of a class's import path in a configuration, and of its name and version in a record."""

UNRECORDED = {"device", "batch_size", "store", "gradient_checkpointing", "offload"}
"""Keys that records of format 1 left out wherever they occurred."""


def identity_of(benchmark: Benchmark, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all methods of a run share: everything that can change a sample or a score, except the methods."""
    return {
        "format": FORMAT,
        "benchmark": benchmark.digest,
        "concepts": {concept.name: concept_digests(concept) for concept in benchmark.concepts},
        "grid": resolved["grid"],
        "backbone": decisive(resolved["backbone"], resolved["cache_dir"]),
        "metrics": decisive(resolved["metrics"], resolved["cache_dir"]),
    }


def decisive(node: Any, cache_dir: str, version: Callable[[Any], int] = version_of) -> Any:
    """Return configuration nodes without import paths, fields of speed and the cache's location, which decide no
    result.

    A class that can't be imported is identified by the last part of its import path, with all its keys.
    """
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [decisive(value, cache_dir, version) for value in node]
    if isinstance(node, Mapping):
        named, left_out = _class(str(node[ADDRESS]), version) if ADDRESS in node else ({}, set())
        values = {key: value for key, value in node.items() if key != ADDRESS and key not in left_out}
        return named | {key: decisive(value, cache_dir, version) for key, value in values.items()}
    if isinstance(node, str):
        return node.replace(str(Path(cache_dir).expanduser().resolve()), "<cache_dir>")
    return node


def _class(address: str, version: Callable[[Any], int]) -> tuple[dict[str, Any], set[str]]:
    """Return a record's entries for a class, and the names of its fields that only change speed."""
    try:
        cls = import_target(address, "")
    except ConfigError:
        return {CLASS: address.rpartition(".")[2], VERSION: 1}, set()
    left_out = {entry.name for entry in cls.__dataclass_fields__.values()} - {e.name for e in decisive_fields(cls)}
    return {CLASS: cls.__qualname__, VERSION: version(cls)}, left_out


def protocol_digest(node: Any, cache_dir: str) -> str:
    """Return 12 hex digits over configuration nodes, such as a metric's with its encoders and their revisions."""
    return _digest(decisive(node, cache_dir))


def addressed_digests(nodes: Iterable[Any], cache_dir: str) -> dict[str, str]:
    """Return the present `protocol_digest` of nodes, in their first versions, by their digest in format 1."""
    return {_digest(_addressed(node, cache_dir)): _digest(decisive(node, cache_dir, lambda cls: 1)) for node in nodes}


def _addressed(node: Any, cache_dir: str) -> Any:
    """Return nodes as format 1 compared them: with import paths, and without `UNRECORDED` keys."""
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_addressed(value, cache_dir) for value in node]
    if isinstance(node, Mapping):
        return {key: _addressed(value, cache_dir) for key, value in node.items() if key not in UNRECORDED}
    return decisive(node, cache_dir)


def _digest(node: Any) -> str:
    return json_digest(node, 12, sort_keys=True)


def read_identity(store: RunStore) -> dict[str, Any]:
    """Return `run.json` in the form of `identity_of`; a record of format 1 is of the first versions."""
    record = read_json(store.identity)
    found: dict[str, Any] = named(record)
    return {**found, "format": FORMAT} if record.get("format") == ADDRESSED else found


def named(node: Any) -> Any:
    """Return a record with class names in place of import paths."""
    if isinstance(node, Mapping):
        own = {CLASS: str(node[ADDRESS]).rpartition(".")[2], VERSION: 1} if ADDRESS in node else {}
        return own | {key: named(value) for key, value in node.items() if key != ADDRESS}
    return [named(value) for value in node] if isinstance(node, list) else node


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their full keys.

    >>> list(flat({"grid": {"seeds": [0, 1], "tasks": {}}, "format": 2}))
    [('grid.seeds', [0, 1]), ('grid.tasks', {}), ('format', 2)]
    """
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def incomparable(record: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Return keys of `identity` that a `run.json`, as it was written, may lack although they decide results."""
    said = dict(flat(record))
    return [
        key
        for key, _ in flat(identity)
        if key not in said and key.rpartition(".")[2] in UNRECORDED and f"{_section(key)}.{ADDRESS}" in said
    ]


def other_versions(present: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Return the version keys of metrics that differ. Such metrics are computed again; the run stays the same."""
    before = dict(flat(present))
    keys = [key for key, value in flat(identity) if key.startswith("metrics.") and before.get(key) != value]
    return [key for key in keys if key.endswith(f".{VERSION}") and key in before]


def _section(key: str) -> str:
    """Return the part of an identity that is written at once: the backbone, or one metric."""
    return ".".join(key.split(".")[: 2 if key.startswith("metrics.") else 1])
