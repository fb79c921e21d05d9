"""The verbs of a run: compose the configuration with Hydra and call the stages."""

import os
import pkgutil
import sys
from collections.abc import Callable, Sequence

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from knowcusbench.config.compose import (
    CONFIGS,
    VERSION_BASE,
    PluginConfigs,
    explain,
    is_override,
    parsed_overrides,
    readable,
    register,
)
from knowcusbench.errors import ConfigError, IncompleteError, exit_on_user_error
from knowcusbench.storage.names import file_name

METHOD_SECTIONS = ("method", "editor", "recipe")
"""Sections of the configuration that may differ between the methods of one run."""

WITHOUT_RUN = {"doctor": "knowcusbench.cli.doctor:doctor", "probe": "knowcusbench.stages.probe:probe"}
"""Verbs that need a configuration and no run, imported when one is given."""


def run_verb(verb: str, arguments: Sequence[str]) -> None:
    """Compose the configuration from Hydra's command-line arguments and run a verb with it, once per job of a sweep.

    Raises ConfigError for any fault in the configuration.
    """
    _prepare_hydra()
    arguments = readable(arguments)
    # Hydra's parser wants all overrides in one block, but users write -m anywhere.
    sys.argv = ["knowcusbench", *sorted(arguments, key=is_override)]

    command = list(sys.argv)
    incomplete: list[str] = []

    def job(composed: DictConfig) -> None:
        # A launcher may run the job in another process.
        register()
        with exit_on_user_error():
            # Imported here because composing or refusing a configuration needs no stages.
            from knowcusbench.run.recorded import recorded_config
            from knowcusbench.stages.run import READING, run_stages

            composed.run.label = composed.run.label or _label(swept)
            try:
                words = HydraConfig.get().overrides.task
                if composed.cpu_threads and verb not in READING:
                    _set_threads(composed.cpu_threads)
                if verb in WITHOUT_RUN:
                    pkgutil.resolve_name(WITHOUT_RUN[verb])(composed)
                else:
                    run_stages(verb, recorded_config(composed, words) if verb == "report" else composed, command)
            except IncompleteError as error:
                # The sweep's other methods run before the error is raised.
                incomplete.append(str(error))

    decorated = hydra.main(version_base=VERSION_BASE, config_path=f"pkg://{CONFIGS}", config_name="config")
    try:
        swept = _swept_keys(arguments)
        if not _run_without_sweep(job, arguments):
            decorated(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    if incomplete:
        raise IncompleteError("; ".join(incomplete))


def _prepare_hydra() -> None:
    """Register our schemas and the configuration packages of other distributions with Hydra. Idempotent."""
    register()
    Plugins.instance().register(PluginConfigs)
    # Hydra prints errors in several lines and exits with 1 unless told to raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"


def _set_threads(count: int) -> None:
    # Imported here because it takes seconds, which commands that only read can save.
    import torch

    torch.set_num_threads(count)


def _run_without_sweep(job: Callable[[DictConfig], None], overrides: Sequence[str]) -> bool:
    """Run the job as `hydra.main` does, and return True; return False without running it if `hydra.main` must do it.

    That is so for options besides overrides, and for a configuration that asks for a sweep or can't be composed.
    `hydra.main` takes a third of a second longer, since it composes once only to learn whether it is a sweep.
    """
    if not all(map(is_override, overrides)):
        return False
    with hydra.initialize_config_module(CONFIGS, version_base=VERSION_BASE, job_name="knowcusbench"):
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
        # Reading the value raises the job's error.
        _ = done.return_value
    return True


def _swept_keys(arguments: Sequence[str]) -> set[str]:
    """Return the keys that a sweep varies."""
    return {override.key_or_group for override in parsed_overrides(arguments) if override.is_sweep_override()}


def _label(swept: set[str]) -> str:
    """Return the method's name, and in a sweep over hyper-parameters their values:
    `mokus,recipe.ultraedit.eta=0.001`."""
    hydra_config = HydraConfig.get()
    varied = [
        override
        for override in hydra_config.overrides.task
        if (key := override.partition("=")[0]) in swept and key != "method" and key.split(".")[0] in METHOD_SECTIONS
    ]
    return file_name(",".join([str(hydra_config.runtime.choices["method"]), *varied]))
