"""The part of a class and its settings that decides a result: name, version and fields, never the module path."""

from dataclasses import Field, fields, is_dataclass
from typing import Any

from knowcusbench.storage.hub_cache import Branch

SPEED = {"speed": True}
"""Metadata of a dataclass field that changes how fast a result is made or where it is kept, but not the result:
`device: str = field(default="auto", metadata=SPEED)`. Any other field decides the result, whatever its name."""


def decisive_fields(cls: Any) -> "list[Field[Any]]":
    """Return the fields of a dataclass that decide a result."""
    return [entry for entry in fields(cls) if not entry.metadata.get("speed")]


def version_of(cls: Any) -> int:
    """Return a class's `version`, or 1 if it has none.

    Its author raises it when the same settings give another result.
    """
    is_setting = is_dataclass(cls) and any(entry.name == "version" for entry in fields(cls))
    return 1 if is_setting else int(getattr(cls, "version", 1))


def settings(spec: Any) -> Any:
    """Return a specification, nested ones included, as plain data: class name, decisive fields, and versions from 2 on.

    Version 1 is left out, so that results from before there were versions are still found.
    """
    if isinstance(spec, Branch):
        # The name decides, whatever commit it is bound to.
        return str(spec) or None
    if not is_dataclass(spec):
        return spec
    cls = type(spec)
    values = {entry.name: settings(getattr(spec, entry.name)) for entry in decisive_fields(spec)}
    return [cls.__qualname__, values, *versioned(spec)]


def versioned(spec: Any) -> list[int]:
    """Return the part of a result's key that holds its class's version: nothing for version 1 (see `settings`)."""
    version = version_of(type(spec))
    return [] if version == 1 else [version]
