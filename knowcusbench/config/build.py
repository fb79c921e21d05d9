"""Building objects from configuration nodes."""

import importlib
from collections.abc import Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from knowcusbench.config.addresses import moved
from knowcusbench.errors import ConfigError, did_you_mean


def build(node: Any, key: str) -> Any:
    """Build the object that a configuration node describes: call `_target_` with the node's other keys.

    Nested nodes are built first. Keys and values are checked against the fields of the target, which is a dataclass.
    Raises ConfigError with the full key for an unknown or missing key, a value of the wrong type, and a `_target_` that
    can't be imported.
    """
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=True)
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{key}: expected a mapping with a `_target_` that names a class, found {node!r}")
    target = import_target(str(node["_target_"]), key)
    values = {name: value for name, value in node.items() if name != "_target_"}
    known = {entry.name: entry for entry in fields(target) if entry.init}
    for name in values:
        if name not in known:
            raise ConfigError(f"{key}.{name}: unknown key{did_you_mean(name, known)}")
    for name, entry in known.items():
        if name not in values and entry.default is NO_DEFAULT and entry.default_factory is NO_DEFAULT:
            raise ConfigError(f"{key}.{name}: missing; {target.__name__} needs it")
    hints = get_type_hints(target)
    return target(**{name: _build_value(value, hints[name], f"{key}.{name}") for name, value in values.items()})


def _build_value(value: Any, expected: Any, key: str) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return build(value, key)
    if isinstance(value, Enum):
        value = value.value
    try:
        return _adapter(expected).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{key}: {problem['msg']}, found {value!r}") from None


def _adapter(expected: Any) -> TypeAdapter[Any]:
    if is_dataclass(expected):
        return TypeAdapter(expected)
    return TypeAdapter(expected, config=ConfigDict(arbitrary_types_allowed=True))


def import_target(target: str, key: str) -> Any:
    """Return the dataclass that a `_target_` names. Raises ConfigError, naming `key`, if there is none.

    A class of this package whose module moved is found under its old path too, since records of runs keep that path.
    """
    module_name, _, name = target.rpartition(".")
    try:
        try:
            found = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError):
            if (now := moved(target)) is None:
                raise
            return import_target(now, key)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}._target_: can't import {target!r} ({error})") from error
    if not is_dataclass(found):
        raise ConfigError(f"{key}._target_: {target!r} is not a dataclass")
    return found
