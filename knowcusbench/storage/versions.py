"""What of a class and its settings decides a result: its name, its version and its fields, never where it lies."""

from dataclasses import Field, fields, is_dataclass
from typing import Any

from knowcusbench.storage.hub_cache import Branch

SPEED = {"speed": True}
"""Metadata of a dataclass field that changes how fast a result is made, or where it is kept, but not the result:
`device: str = field(default="auto", metadata=SPEED)`. Any other field decides the result, whatever its name."""


def decisive_fields(cls: Any) -> "list[Field[Any]]":
    """Return the fields of a dataclass that decide a result."""
    return [entry for entry in fields(cls) if not entry.metadata.get("speed")]


def version_of(cls: Any) -> int:
    """Return a class's `version`, which its author raises when the same settings give another result; 1 without one."""
    is_setting = is_dataclass(cls) and any(entry.name == "version" for entry in fields(cls))
    return 1 if is_setting else int(getattr(cls, "version", 1))


def settings(spec: Any) -> Any:
    """Return a specification, nested ones included, as plain data: its class's name and decisive fields, and its
    version from 2 on. Version 1 goes unsaid, so that what was kept before there were versions is found again."""
    if isinstance(spec, Branch):
        # By its name, whatever commit it stands for.
        return str(spec) or None
    if not is_dataclass(spec):
        return spec
    cls = type(spec)
    values = {entry.name: settings(getattr(spec, entry.name)) for entry in decisive_fields(spec)}
    return [cls.__qualname__, values, *versioned(spec)]


def versioned(spec: Any) -> list[int]:
    """Return what a key of kept results holds for the version of a class: nothing for version 1 (see `settings`)."""
    version = version_of(type(spec))
    return [] if version == 1 else [version]
