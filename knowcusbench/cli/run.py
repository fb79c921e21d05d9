"""The verbs of a run: composing the configuration with Hydra and calling the stages."""

import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, run_job
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from knowcusbench.config.schema import did_you_mean, register
from knowcusbench.errors import ConfigError, IncompleteError, exit_on_user_error
from knowcusbench.storage.names import file_name
from knowcusbench.config.overrides import as_typed, hint_of_quotes

METHOD_SECTIONS = ("method", "editor", "recipe")
"""The parts of the configuration that may differ between the methods of one run."""


class PluginConfigs(SearchPathPlugin):
    """Puts the configuration packages of other distributions on Hydra's search path.

    A distribution names its package of YAML files (with `method/<name>.yaml` or `metrics/<name>.yaml` in it) by an
    entry point of the group `knowcusbench.methods` or `knowcusbench.metrics`.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for group in ("knowcusbench.methods", "knowcusbench.metrics"):
            for entry_point in importlib.metadata.entry_points(group=group):
                search_path.append(provider=entry_point.name, path=f"pkg://{entry_point.value}")


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration with Hydra overrides. Raises ConfigError for anything wrong with them."""
    prepare_hydra()
    return _compose(_readable(overrides))


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
            return hydra.compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


def _readable(words: Sequence[str]) -> list[str]:
    """The arguments with texts as they were typed. Raises ConfigError for what Hydra would end with a traceback."""
    for override in _overrides(words):
        _refuse_no_option(override)
    return as_typed(words, lambda: _compose(_not_swept(words)))


def _refuse_no_option(override: Override) -> None:
    """Hydra takes a group's options by name alone, and lays several one over the other."""
    group, value = override.key_or_group, override.value()
    if "." in group or override.is_delete() or (override.is_sweep_override() and not override.is_choice_sweep()):
        return
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    given = [each if isinstance(each, list) else [each] for each in values]
    named = all(isinstance(one, str | QuotedString) for each in given for one in each)
    several = any(len(each) > 1 for each in given)
    if (named and not several) or not (options := _options(group)):
        return
    default = _default_choices().get(group, options)
    if not named:
        none = f"leave {group}= out for none, or take" if default is None else "take"
        raise ConfigError(f"{override.input_line}: expected the name of an option; {none} one of {', '.join(options)}")
    if default is None or isinstance(default, str):
        raise ConfigError(f"{override.input_line}: takes one option; give them with commas and -m to try each")


def _options(group: str) -> list[str]:
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
        options: list[str] = GlobalHydra.instance().config_loader().get_group_options(group)
        return options


def _default_choices() -> Mapping[str, Any]:
    """What is chosen of every group unless something else is asked for."""
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
        composed = hydra.compose("config", return_hydra_config=True)
    choices = OmegaConf.to_container(composed.hydra.runtime.choices)
    assert isinstance(choices, dict)
    return {str(group): choice for group, choice in choices.items()}


def prepare_hydra() -> None:
    """Make our schemas and the configuration packages of other distributions known to Hydra. Idempotent."""
    register()
    Plugins.instance().register(PluginConfigs)
    # Hydra prints errors in several lines and exits with 1 unless told to raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"


def run_verb(verb: str, arguments: Sequence[str]) -> None:
    """Compose the configuration from Hydra command-line arguments and run a verb with it, once per job of
    a sweep. Raises ConfigError for anything wrong with the configuration."""
    prepare_hydra()
    arguments = _readable(arguments)
    # Hydra's parser wants all overrides in one piece; people write -m anywhere.
    sys.argv = ["knowcusbench", *sorted(arguments, key=_is_override)]

    incomplete: list[str] = []

    def job(composed: DictConfig) -> None:
        # A launcher may have brought it into another process.
        register()
        with exit_on_user_error():
            # Here, since composing a configuration, or refusing it, takes none of the stages.
            from knowcusbench.run.recorded import recorded_config
            from knowcusbench.stages.run import run_stages

            composed.run.label = composed.run.label or _label(swept)
            try:
                words = HydraConfig.get().overrides.task
                run_stages(verb, recorded_config(composed, words) if verb == "report" else composed)
            except IncompleteError as error:
                # The other methods of a sweep come first.
                incomplete.append(str(error))

    decorated = hydra.main(version_base="1.3", config_path="pkg://knowcusbench.configs", config_name="config")
    try:
        swept = _swept_keys(arguments)
        if not _run_without_sweep(job, arguments):
            decorated(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    if incomplete:
        raise IncompleteError("; ".join(incomplete))


def _run_without_sweep(job: Callable[[DictConfig], None], overrides: Sequence[str]) -> bool:
    """Run the job as `hydra.main` does, and return True; do nothing and return False for options besides overrides, and
    for a configuration that asks for a sweep or can't be composed. `hydra.main` takes a third of a second more, since
    it composes once just to learn whether it is a sweep."""
    if not all(map(_is_override, overrides)):
        return False
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3", job_name="knowcusbench"):
        loader = GlobalHydra.instance().config_loader()
        try:
            composed = loader.load_configuration("config", list(overrides), RunMode.RUN)
        except (HydraException, OmegaConfBaseException):
            return False
        if composed.hydra.mode is RunMode.MULTIRUN:
            return False
        composed.hydra.mode = RunMode.RUN
        configure_log(composed.hydra.hydra_logging, composed.hydra.verbose)
        callbacks = Callbacks(composed)
        callbacks.on_run_start(config=composed, config_name="config")
        done = run_job(
            job,
            composed,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
            hydra_context=HydraContext(config_loader=loader, callbacks=callbacks),
        )
        callbacks.on_run_end(config=composed, config_name="config", job_return=done)
        # It raises what the job has raised.
        _ = done.return_value
    return True


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def _overrides(arguments: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    try:
        return parser.parse_overrides([word for word in arguments if _is_override(word)])
    except HydraException as error:
        raise ConfigError(explain(error)) from error


def _not_swept(arguments: Sequence[str]) -> list[str]:
    """The overrides that give a key one value."""
    return [str(override.input_line) for override in _overrides(arguments) if not override.is_sweep_override()]


def _swept_keys(arguments: Sequence[str]) -> set[str]:
    """The keys that a sweep varies."""
    return {override.key_or_group for override in _overrides(arguments) if override.is_sweep_override()}


def _label(swept: set[str]) -> str:
    """The method's name, and in a sweep over its hyper-parameters their values: `mokus,recipe.ultraedit.eta=0.001`."""
    hydra_config = HydraConfig.get()
    varied = [
        override
        for override in hydra_config.overrides.task
        if (key := override.partition("=")[0]) in swept and key != "method" and key.split(".")[0] in METHOD_SECTIONS
    ]
    return file_name(",".join([str(hydra_config.runtime.choices["method"]), *varied]))


def explain(error: Exception) -> str:
    """One line for an error of Hydra's or OmegaConf's: what is wrong, where, and the nearest right name."""
    text = str(error)
    if isinstance(error, MissingConfigException):
        return _explain_missing_option(text)
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{ambiguous[1]}: several values; add -m to sweep over them, or brackets for a list"
    if isinstance(error, OverrideParseException):
        reason = f"not an override, expected key=value ({text.partition(chr(10))[0]})"
        return f"{error.override}: {reason}{hint_of_quotes(error.override)}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = str(getattr(cause, "full_key", None) or "")
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and key:
        return f"{key}: unknown key{did_you_mean(key, _known_keys())}"
    first = str(cause).partition("\n")[0]
    if key and "is not a ListConfig" in first:
        return f'{key}: a list is expected, as in "{key}=[a,b]"'
    return f"{key}: {first}" if key else first


def _explain_missing_option(text: str) -> str:
    wanted = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if not wanted:
        return text.partition("\n")[0]
    group, _, option = wanted[1].rpartition("/")
    if option.startswith("submitit"):
        return f"{group}={option} needs Hydra's submitit launcher: pip install 'knowcusbench[slurm]'"
    none = f"; leave {group}= out for none" if _default_choices().get(group, "") is None else ""
    return f"{group}={option}: no such option{did_you_mean(option, _options(group))}{none}"


def _known_keys() -> list[str]:
    """All keys of the default configuration, in full."""
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
        composed = hydra.compose("config")
    return list(_keys(OmegaConf.to_container(composed, resolve=False), ""))


def _keys(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")
