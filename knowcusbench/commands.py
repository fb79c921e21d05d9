"""The verbs of a run: composing the configuration with Hydra and calling the stages."""

import importlib.metadata
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from tqdm import tqdm

from knowcusbench.config import did_you_mean, register
from knowcusbench.engine.base import Engine
from knowcusbench.errors import ConfigError, IncompleteError, RunError, exit_on_user_error
from knowcusbench.names import file_name
from knowcusbench.progress import say
from knowcusbench.provenance import provenance
from knowcusbench.stages.adapt import POLL, adapt
from knowcusbench.stages.dtype import settle_dtype
from knowcusbench.stages.effects import effects
from knowcusbench.stages.estimate import plan_summary
from knowcusbench.stages.forecast import forecast, keep_pace
from knowcusbench.stages.generate import existing_images, generate
from knowcusbench.stages.prepare import Run, prepare, read_config, recorded_config, recorded_weights
from knowcusbench.stages.probe import probe
from knowcusbench.stages.report import report
from knowcusbench.stages.score import score
from knowcusbench.store import write_json, writing
from knowcusbench.tracking import tracked

STAGES: tuple[Callable[[Run], None], ...] = (adapt, generate, score, effects, report)

READING = ("plan", "report")
"""The verbs of a run that make no results."""

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
    try:
        with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
            return hydra.compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


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
    # Hydra's parser wants all overrides in one piece; people write -m anywhere.
    sys.argv = ["knowcusbench", *sorted(arguments, key=_is_override)]

    incomplete: list[str] = []

    def job(composed: DictConfig) -> None:
        # A launcher may have brought it into another process.
        register()
        with exit_on_user_error():
            composed.run.label = composed.run.label or _label(swept)
            try:
                run_stages(verb, recorded_config(composed) if verb == "report" else composed)
            except IncompleteError as error:
                # The other methods of a sweep come first.
                incomplete.append(str(error))

    decorated = hydra.main(version_base="1.3", config_path="pkg://knowcusbench.configs", config_name="config")
    try:
        swept = _swept_keys(arguments)
        decorated(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    if incomplete:
        raise IncompleteError("; ".join(incomplete))


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def _swept_keys(arguments: Sequence[str]) -> set[str]:
    """The keys that a sweep varies."""
    overrides = OverridesParser.create().parse_overrides([word for word in arguments if _is_override(word)])
    return {override.key_or_group for override in overrides if override.is_sweep_override()}


def _label(swept: set[str]) -> str:
    """The method's name, and in a sweep over its hyper-parameters their values: `mokus,recipe.ultraedit.eta=0.001`."""
    hydra_config = HydraConfig.get()
    varied = [
        override
        for override in hydra_config.overrides.task
        if (key := override.partition("=")[0]) in swept and key != "method" and key.split(".")[0] in METHOD_SECTIONS
    ]
    return file_name(",".join([str(hydra_config.runtime.choices["method"]), *varied]))


def run_stages(verb: str, composed: DictConfig) -> None:
    """Run a verb's stages for one method, and leave a record of the command in the run. Raises IncompleteError if
    images that should have been drawn are missing then."""
    if composed.cpu_threads and verb not in READING:
        # Here, since it takes seconds that who only reads need not wait for.
        import torch

        torch.set_num_threads(composed.cpu_threads)
    settled, why = settle_dtype(composed, measure=verb not in READING)
    config, resolved = read_config(settled)
    if verb == "probe":
        probe(config, resolved)
        if why:
            say(why)
        return
    if verb == "doctor":
        # Here, since no other verb needs it.
        from knowcusbench.doctor import doctor

        doctor(config, resolved)
        return
    try:
        run = prepare(config, resolved, makes_results=verb not in READING)
    except RunError:
        # Another command, on another kind of machine, may have begun the run just now.
        before = why
        settled, why = settle_dtype(composed, measure=verb not in READING)
        if why == before:
            raise
        config, resolved = read_config(settled)
        run = prepare(config, resolved, makes_results=verb not in READING)
    if why:
        say(why)
    if verb == "plan":
        print(plan_summary(run, config.assumed_tflops))
        return
    for note in run.benchmark.notes:
        say(f"benchmark: {note}")
    in_bench = [stage for stage in STAGES if stage is not effects or run.effects.enabled]
    stages = in_bench if verb == "bench" else [stage for stage in STAGES if stage.__name__ == verb]
    if stages != [report]:
        run.engine.check()
    names, cache_dir = [stage.__name__ for stage in stages], Path(config.cache_dir)
    if verb != "report":
        say(forecast(run, names, cache_dir))
    record = provenance(computes=verb not in READING) | {"verb": verb, "seconds": {}, "benchmark": run.benchmark.digest}
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    seconds: dict[str, float] = record["seconds"]

    def keep_record() -> None:
        record.update(recorded_weights(run.store))
        if score in stages:
            record["metric_weights"] = {name: dict(metric.weights()) for name, metric in run.metrics.items()}
        with writing():
            write_json(run.store.provenance(stamp, run.label), record)

    with tracked(config.tracker, run, resolved) as observe:
        for stage in stages:
            if stage is report and seconds:
                # Its pages show how the run came about, by what this command has done so far too.
                keep_record()
            started = time.perf_counter()
            if stage is generate and score in stages and run.engine.beside:
                _generate_and_score(run, run.engine.beside)
            else:
                stage(run)
            seconds[stage.__name__] = round(time.perf_counter() - started, 3)
            observe(stage.__name__, seconds[stage.__name__])
    keep_record()
    if generate in stages:
        with writing():
            keep_pace(run, cache_dir)
    if generate in stages and (missing := len(run.plan) - len(existing_images(run))):
        raise IncompleteError(
            f"{run.label}: {missing} of {len(run.plan)} images are missing; {run.store.root}/failures says why, and "
            "the same command tries them again"
        )


def _generate_and_score(run: Run, engine: Engine) -> None:
    """Score what is drawn, by workers of their own, while it is drawn. What is left over is for the score stage."""
    beside = replace(run, engine=engine)
    drawn = threading.Event()

    def score_along() -> None:
        try:
            while not drawn.wait(POLL):
                score(beside, shown=False)
        except Exception as error:
            tqdm.write(
                f"knowcusbench: scoring beside drawing has ended ({type(error).__name__}: {error}); what is left is "
                "scored after drawing",
                file=sys.stderr,
            )

    thread = threading.Thread(target=score_along, daemon=True)
    thread.start()
    try:
        generate(run)
    finally:
        drawn.set()
    thread.join()
    engine.close()


def explain(error: Exception) -> str:
    """One line for an error of Hydra's or OmegaConf's: what is wrong, where, and the nearest right name."""
    text = str(error)
    if isinstance(error, MissingConfigException):
        return _explain_missing_option(text)
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{ambiguous[1]}: several values; add -m to sweep over them, or brackets for a list"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not an override, expected key=value ({text.partition(chr(10))[0]})"
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
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
        options = GlobalHydra.instance().config_loader().get_group_options(group)
    return f"{group}={option}: no such option{did_you_mean(option, options)}"


def _known_keys() -> list[str]:
    """All keys of the default configuration, in full."""
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
        composed = hydra.compose("config")
    return list(_keys(OmegaConf.to_container(composed, resolve=False), ""))


def _keys(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")
