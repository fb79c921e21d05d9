"""A forecast of a command's work and of its duration on this machine, printed as the command's first line."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from knowcusbench.adapters.peft_files import is_saved, load_record
from knowcusbench.errors import RunError
from knowcusbench.machine.device import resolve_device
from knowcusbench.machine.hardware import hardware
from knowcusbench.machine.progress import duration
from knowcusbench.run.estimate import work_of
from knowcusbench.run.jobs import adapt_jobs, adaptation_path, existing_images, interferes, missing_jobs
from knowcusbench.run.layout import GENERATE
from knowcusbench.run.run import Run
from knowcusbench.storage.digests import text_digest
from knowcusbench.storage.tables import read_json, read_lines, write_json

SHARES = {("cpu", "float32"): 0.65, ("cpu", "bfloat16"): 0.08, ("cuda", "bfloat16"): 0.5}
"""Part of a matrix product's rate that a whole command reaches, by device and dtype, for a machine's first forecast.

The CPU values are the embedded world's on two processors, where small products leave fast units idle. The GPU value is
counted at full size. `SHARE` applies to all others.
"""

SHARE = 0.3
"""Part of a matrix product's rate for devices and dtypes that `SHARES` lacks."""


@dataclass(frozen=True)
class Pace:
    """The floating-point operations per second of one worker.

    Attributes:
        adapting: counted operations of training over all seconds of adaptations, edits included.
        drawing: counted operations of sampling over the seconds of drawing.
    """

    adapting: float
    drawing: float


def forecast(run: Run, stages: Sequence[str], cache_dir: Path) -> str:
    """Return one line: the missing work of `stages`, its approximate duration and the run directory."""
    jobs = adapt_jobs(run.concepts, run.method)
    adaptations = missing_jobs(run, jobs) if "adapt" in stages else []
    images = len(run.plan) - len(existing_images(run)) if GENERATE in stages else 0
    work = work_of(run)
    effect_images = work.effect_images if "effects" in stages and (adaptations or not _effects_there(run)) else 0
    parts = [f"{len(adaptations):,} adaptations"] if adaptations else []
    parts += [f"{images:,} images"] if images else []
    parts += [f"{effect_images:,} pictures of effects"] if effect_images else []
    scored = [metric.title for metric in run.metrics.values()] if "score" in stages else []
    parts += [f"scores ({', '.join(scored)})"] if scored else []
    image_flops = work.sampling / max(1, len(run.plan) + work.effect_images)
    passes = sum(run.method.training_passes(job.concept) for job in adaptations)
    training = work.training * passes / work.passes if work.passes else 0.0
    flops = training + (images + effect_images) * image_flops
    what = ", ".join(parts) or "tables and pages"
    if not flops:
        return f"{run.label}: {what}; results in {run.store.root}"
    workers = run.engine.parallelism
    pace, source = _pace(run, cache_dir)
    seconds = (training / pace.adapting + (images + effect_images) * image_flops / pace.drawing) / workers
    by = f"{workers} workers" if workers > 1 else "1 worker"
    return f"{run.label}: {what}; about {duration(seconds)} with {by} ({source}); results in {run.store.root}"


def _effects_there(run: Run) -> bool:
    return not interferes(run) or run.store.interference(run.label).exists()


def _pace(run: Run, cache_dir: Path) -> tuple[Pace, str]:
    """Return the pace of earlier commands on this machine, or a guess from a matrix product, and the source of the
    two."""
    import torch

    from knowcusbench.machine.rates import product_rates

    path = _path(run, cache_dir)
    try:
        return Pace(**read_json(path)), "measured by earlier commands here"
    except (OSError, RunError, TypeError):
        device = resolve_device(getattr(run.backbone, "device", "auto"))
        name = getattr(run.backbone, "dtype", "float32")
        rate = SHARES.get((device.type, name), SHARE) * product_rates(device)[getattr(torch, name)]
        return Pace(rate, rate), f"guessed from a {name} matrix product here"


def keep_pace(run: Run, cache_dir: Path) -> None:
    """Record the pace of the run's method on this machine for later forecasts.

    A part of the work that the method did not do keeps its earlier record.
    """
    before = _pace(run, cache_dir)[0]
    work = work_of(run)
    records = [
        load_record(path)
        for job in adapt_jobs(run.concepts, run.method)
        if is_saved(path := adaptation_path(run.store, run.label, job))
    ]
    lines = [line for line in read_lines(run.store.journal(run.label, "").parent) if line["stage"] == GENERATE]
    adapting = sum(sum(record["cost"]["seconds"].values()) for record in records)
    drawing = sum(line["seconds"] for line in lines)
    drawn = sum(line.get("images", 0) for line in lines)
    image_flops = work.sampling / max(1, len(run.plan) + work.effect_images)
    pace = Pace(
        adapting=work.training / adapting if work.training and adapting else before.adapting,
        drawing=image_flops * drawn / drawing if drawn and drawing else before.drawing,
    )
    if pace != before:
        write_json(_path(run, cache_dir), asdict(pace))


def _path(run: Run, cache_dir: Path) -> Path:
    """Return the path of the record: the pace depends on the backbone and on the processor or GPU."""
    machine = hardware()
    text = f"{run.backbone!r} {machine['processor']} {machine['gpus']}"
    return cache_dir.expanduser() / "pace" / f"{text_digest(text, 16)}.json"
