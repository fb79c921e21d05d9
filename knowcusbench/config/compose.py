"""Composition of the configuration with Hydra: schemas, plug-ins, and one-line errors."""

import importlib
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from knowcusbench.config.local_paths import with_absolute_paths
from knowcusbench.config.overrides import as_typed, hint_of_quotes
from knowcusbench.config.schema import SECTIONS, Config
from knowcusbench.errors import ConfigError, did_you_mean, first_line

CONFIGS = "knowcusbench.configs"
"""The package of our configuration files."""

VERSION_BASE = "1.3"
"""The version of Hydra whose defaults hold."""

_LOCK = threading.RLock()


@contextmanager
def _defaults_of(version_base: str) -> Iterator[None]:
    """Have Hydra compose by the defaults of one of its versions. That is a global of the process too."""
    with _LOCK:
        before = VersionBase.instance().getbase()
        version.setbase(version_base)
        try:
            yield
        finally:
            VersionBase.instance().version_base = before


def register() -> None:
    """Register the schemas and the resolvers of configuration files with Hydra. Idempotent."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("embedded", _embedded, replace=True)
    OmegaConf.register_new_resolver("swept", _swept, replace=True)
    OmegaConf.register_new_resolver("on_this_machine", _on_this_machine, replace=True)


def _embedded(part: str, *, _root_: DictConfig) -> str:
    from knowcusbench.toybox import embedded

    return str(embedded(part, str(Path(_root_.cache_dir).expanduser().absolute())))


def _swept(values: Iterable[Any]) -> str:
    """Return the values of a list, or the names of a mapping, in the form that Hydra's sweeper takes."""
    return ",".join(str(value) for value in values)


def _on_this_machine(place: str, otherwise: str) -> str:
    """Return `place` if it is a path ("~" is the home directory), or `otherwise` if it is a URL.

    Hydra needs a local directory for the record of a sweep.
    """
    return os.path.expanduser(otherwise if "://" in place else place)


class PluginConfigs(SearchPathPlugin):
    """A Hydra plug-in that adds the configuration packages of other distributions to the search path.

    A distribution names its package of YAML files (`method/<name>.yaml`, `metrics/<name>.yaml`, any other group) by an
    entry point of the group `knowcusbench.configs`. Two older names of this group are read too.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        groups = ("knowcusbench.configs", "knowcusbench.methods", "knowcusbench.metrics")
        found = [entry_point for group in groups for entry_point in importlib.metadata.entry_points(group=group)]
        for package, name in {entry_point.value: entry_point.name for entry_point in found}.items():
            search_path.append(provider=name, path=f"pkg://{package}")


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Return the configuration with Hydra overrides applied. Raises ConfigError for any fault in them."""
    return without_hydra(compose_with_choices(overrides))


@_defaults_of(VERSION_BASE)
def compose_with_choices(overrides: Sequence[str]) -> DictConfig:
    """As `compose_config`, with the section `hydra`, which says what was chosen of every group."""
    return _compose(readable(overrides))


def without_hydra(composed: DictConfig) -> DictConfig:
    """Take the section `hydra` out of a configuration."""
    with open_dict(composed):
        del composed["hydra"]
    return composed


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return _loader().load_configuration("config", list(overrides), RunMode.RUN, from_shell=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


def _loader() -> ConfigLoaderImpl:
    """A loader of our configurations and those of plug-ins. Hydra's own is a global of the process, which may be in use
    by a program that calls us."""
    register()
    search_path = ConfigSearchPathImpl()
    search_path.append("hydra", "pkg://hydra.conf")
    search_path.append("main", f"pkg://{CONFIGS}")
    # Ours is not registered there unless a command did it: programs that call us may have commands of their own.
    plugins: dict[type[Any], None] = dict.fromkeys(Plugins.instance().discover(SearchPathPlugin))
    for plugin in plugins | {PluginConfigs: None}:
        plugin().manipulate_search_path(search_path)
    search_path.append("schema", "structured://")
    return ConfigLoaderImpl(search_path)


def readable(words: Sequence[str]) -> list[str]:
    """Return the arguments with texts as they were typed.

    Raises ConfigError where Hydra would fail with a traceback.
    """
    for override in parsed_overrides(words):
        _refuse_no_option(override)
    return as_typed(words, lambda: _compose(_not_swept(words)))


def _refuse_no_option(override: Override) -> None:
    """Refuse a value that names no option of a group.

    Hydra takes a group's options by name alone, and merges several options into one.
    """
    group, value = override.key_or_group, override.value()
    if "." in group or override.is_delete() or (override.is_sweep_override() and not override.is_choice_sweep()):
        return
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    given = [each if isinstance(each, list) else [each] for each in values]
    named = all(isinstance(one, str | QuotedString) for each in given for one in each)
    several = any(len(each) > 1 for each in given)
    if (named and not several) or not (known := options(group)):
        return
    default = _default_choices().get(group, known)
    if not named:
        none = f"leave {group}= out for none, or take" if default is None else "take"
        raise ConfigError(f"{override.input_line}: expected the name of an option; {none} one of {', '.join(known)}")
    if default is None or isinstance(default, str):
        raise ConfigError(f"{override.input_line}: takes one option; give them with commas and -m to try each")


@_defaults_of(VERSION_BASE)
def options(group: str) -> list[str]:
    """The options of a group, those of plug-ins included."""
    found: list[str] = _loader().get_group_options(group)
    return found


def _default_choices() -> Mapping[str, Any]:
    """Return the default option of every group."""
    choices = OmegaConf.to_container(_compose([]).hydra.runtime.choices)
    assert isinstance(choices, dict)
    return {str(group): choice for group, choice in choices.items()}


def is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def parsed_overrides(arguments: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    try:
        return parser.parse_overrides([word for word in arguments if is_override(word)])
    except HydraException as error:
        raise ConfigError(explain(error)) from error


def _not_swept(arguments: Sequence[str]) -> list[str]:
    """Return the overrides that give a key one value."""
    return [str(override.input_line) for override in parsed_overrides(arguments) if not override.is_sweep_override()]


def explain(error: Exception) -> str:
    """Return one line for an error of Hydra's or OmegaConf's: what is wrong, where, and the nearest known name."""
    text = str(error)
    if isinstance(error, MissingConfigException):
        return _explain_missing_option(error)
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{ambiguous[1]}: several values; add -m to sweep over them, or brackets for a list"
    if isinstance(error, OverrideParseException):
        reason = f"not an override, expected key=value ({first_line(error)})"
        return f"{error.override}: {reason}{hint_of_quotes(error.override)}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = str(getattr(cause, "full_key", None) or "")
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and key:
        return f"{key}: unknown key{did_you_mean(key, _known_keys())}"
    first = first_line(cause)
    if key and "is not a ListConfig" in first:
        return f'{key}: a list is expected, as in "{key}=[a,b]"'
    return f"{key}: {first}" if key else first


def _explain_missing_option(error: Exception) -> str:
    wanted = re.search(r"Could not (?:find|load) '([^']+)'", str(error))
    if not wanted:
        return first_line(error)
    group, _, option = wanted[1].rpartition("/")
    if option.startswith("submitit"):
        return f"{group}={option} needs Hydra's submitit launcher: pip install 'knowcusbench[slurm]'"
    none = f"; leave {group}= out for none" if _default_choices().get(group, "") is None else ""
    return f"{group}={option}: no such option{did_you_mean(option, options(group))}{none}"


def _known_keys() -> list[str]:
    """Return all keys of the default configuration, in full."""
    return list(_keys(OmegaConf.to_container(without_hydra(_compose([])), resolve=False), ""))


def _keys(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


def read_config(composed: DictConfig) -> tuple[Config, dict[str, Any]]:
    """Return the typed configuration and the same as plain data.

    The typed one has absolute paths for files of this machine. The plain data has all interpolations resolved and paths
    as they were typed.
    """
    try:
        resolved = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True, enum_to_str=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value; give it one: {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        # OmegaConf puts the name of the original error in front of its message.
        text = first_line(error)
        raise ConfigError(
            f"{error.full_key}: {text.rpartition('raised while resolving interpolation: ')[2]}"
        ) from error
    assert isinstance(resolved, dict)
    plain = {str(key): value for key, value in resolved.items()}
    _refuse_added_keys(plain)
    _refuse_encoders_without_source(plain)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    return with_absolute_paths(config), plain


def _refuse_added_keys(resolved: Mapping[str, Any]) -> None:
    """Refuse keys that a section's schema does not have. Hydra accepts them as `+key=value`, but nothing would read
    them."""
    for prefix, schema, section in [
        ("", Config, resolved),
        *((f"{name}.", schema, resolved[name]) for name, schema in SECTIONS.items() if resolved[name]),
    ]:
        known = [entry.name for entry in fields(schema)]
        for key in section:
            if key not in known:
                raise ConfigError(f"{prefix}{key}: unknown key{did_you_mean(str(key), known)}")


def _refuse_encoders_without_source(resolved: Mapping[str, Any]) -> None:
    """Refuse a metric whose encoder has no checkpoint in this choice (`source: null`). Unused encoders need none."""
    metrics = [metric for metric in resolved["metrics"].values() if isinstance(metric, Mapping)]
    for name, encoder in resolved["encoders"].items():
        used = any(encoder in metric.values() for metric in metrics)
        if used and isinstance(encoder, Mapping) and encoder.get("source", "") is None:
            raise ConfigError(
                f"encoders.{name}.source has no value, and a metric needs it; give it a directory or hub id: "
                f"encoders.{name}.source=..."
            )
