"""The stages of a verb, in order, and the record of the command."""

import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from knowcusbench.config.compose import read_config
from knowcusbench.engine.base import Engine
from knowcusbench.errors import IncompleteError, RunError
from knowcusbench.machine.progress import output, say, show
from knowcusbench.run.checks import recorded_weights
from knowcusbench.run.dtype import settle_dtype
from knowcusbench.run.encoders import settle_commits
from knowcusbench.run.estimate import plan_summary
from knowcusbench.run.forecast import forecast, keep_pace
from knowcusbench.run.jobs import POLL, existing_images
from knowcusbench.run.prepare import prepare
from knowcusbench.run.provenance import provenance
from knowcusbench.run.run import Run
from knowcusbench.stages.adapt import adapt
from knowcusbench.stages.effects import effects
from knowcusbench.stages.generate import generate
from knowcusbench.stages.report.report import report
from knowcusbench.stages.score import score, unscored_images
from knowcusbench.storage.tables import write_json, writing
from knowcusbench.tracking import tracked

STAGES: tuple[Callable[[Run], None], ...] = (adapt, generate, score, effects, report)
"""Stages of `bench`, in order."""

READING = ("plan", "report")
"""Verbs of a run that make no results."""


def run_stages(verb: str, composed: DictConfig, command: Sequence[str]) -> None:
    """Run a verb's stages for one method, and record the command in the run directory.

    Args:
        verb: of a run.
        composed: the configuration.
        command: what would do the same on the command line, but for the verb; for the record.

    Raises IncompleteError if images are still missing afterwards, or have no score.
    """
    settled, why = settle_dtype(composed, measure=verb not in READING)
    config, resolved = read_config(settled)
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
        show(plan_summary(run, config.assumed_tflops))
        return
    for note in run.benchmark.notes:
        say(f"benchmark: {note}")
    stages = [stage for stage in STAGES if stage.__name__ == verb]
    if verb == "bench":
        stages = [stage for stage in STAGES if stage is not effects or run.effects.enabled]
    if stages != [report]:
        run.engine.check()
        if score in stages or effects in stages:
            run = settle_commits(run)
        # An encoder that can't be loaded is reported before hours of drawing, not after them.
        for metric in run.metrics.values() if score in stages else ():
            metric.weights()
        if effects in stages:
            run.effects.encoder.weights()
    names, cache_dir = [stage.__name__ for stage in stages], Path(config.cache_dir)
    if verb != "report":
        say(forecast(run, names, cache_dir))
    record = {
        **provenance(computes=verb not in READING),
        "command": list(command),
        "verb": verb,
        "seconds": {},
        "benchmark": run.benchmark.digest,
    }
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
                # The pages show how the run was made, including by this command so far.
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
    if score in stages and (unscored := len(unscored_images(run))):
        raise IncompleteError(f"{run.label}: {unscored} images have no score, as said above and in the scores' notes")


def _generate_and_score(run: Run, engine: Engine) -> None:
    """Score images with separate workers while drawing goes on. The score stage does the rest."""
    scoring = replace(run, engine=engine)
    drawn = threading.Event()

    def score_along() -> None:
        try:
            while not drawn.wait(POLL):
                score(scoring, shown=False)
        except Exception as error:
            tqdm.write(
                f"knowcusbench: scoring during drawing has ended ({type(error).__name__}: {error}); the rest is "
                "scored after drawing",
                file=output(),
            )

    thread = threading.Thread(target=copy_context().run, args=(score_along,), daemon=True)
    thread.start()
    try:
        generate(run)
    finally:
        drawn.set()
    thread.join()
    engine.close()
