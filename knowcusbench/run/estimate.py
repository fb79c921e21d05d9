"""The cost of a plan, estimated before any weights are loaded."""

from dataclasses import dataclass

from knowcusbench.backbone.base import Footprint, unseen_layers
from knowcusbench.benchmark.types import Task
from knowcusbench.machine.progress import HOUR
from knowcusbench.run.dtype import AUTO
from knowcusbench.run.jobs import adapt_jobs, interferes
from knowcusbench.run.plan import counts
from knowcusbench.run.run import Run

TIB, GIB, MIB = 2**40, 2**30, 2**20


@dataclass(frozen=True)
class Work:
    """The work of one method of a run.

    The text encoder's part and metrics are left out: they are small against sampling.

    Attributes:
        effect_images: number of images of the effects stage, in addition to the samples.
        passes: number of training passes.
        sampling, training: floating-point operations.
        prompts: number of prompts that are encoded for the samples.
        image_bytes: size of all images, uncompressed.
        embeds_bytes: size of the embeddings of `prompts`.
    """

    effect_images: int
    passes: int
    sampling: float
    training: float
    prompts: int
    image_bytes: int
    embeds_bytes: int


def work_of(run: Run) -> Work:
    """Count the work of a run's method from its plan and the backbone's configuration files."""
    footprint = footprint_of(run)
    effect_images = effects_pictures(run)
    passes = sum(run.method.training_passes(job.concept) for job in adapt_jobs(run.concepts, run.method))
    prompts = len(run.plan.drop_duplicates(["concept", "knowledge", "prompt"]))
    height, width = footprint.image_size
    return Work(
        effect_images=effect_images,
        passes=passes,
        sampling=(len(run.plan) + effect_images) * footprint.image_flops,
        training=passes * footprint.training_step_flops,
        prompts=prompts,
        image_bytes=(len(run.plan) + effect_images) * height * width * 3,
        embeds_bytes=prompts * footprint.prompt_embeds_bytes,
    )


def footprint_of(run: Run) -> Footprint:
    """Return the footprint of the run's backbone. Counts made for it are cached next to the adapters."""
    return run.backbone.footprint(run.cache.directory.with_name("counts"))


def plan_summary(run: Run, assumed_tflops: float) -> str:
    """Return samples by task, floating-point operations, hours and bytes of one method, as text.

    The hours are a lower bound: every operation runs at `assumed_tflops`, and nothing waits.
    """
    footprint, work = footprint_of(run), work_of(run)
    hours = (work.sampling + work.training) / (assumed_tflops * 1e12) / HOUR
    height, width = footprint.image_size
    parameters = ", ".join(f"{name} {count:,}" for name, count in footprint.parameters.items())
    lines = [
        ("run", f"{run.store.root} ({run.label})"),
        ("benchmark", f"{run.benchmark.root} ({run.benchmark.digest[:12]})"),
        ("concepts", f"{len(run.concepts)}, {sum(len(c.knowledge) for c in run.concepts)} knowledge items"),
        *((task, f"{count:,} samples") for task, count in counts(run.plan).items()),
        ("total", f"{len(run.plan):,} samples of {height} x {width} pixels"),
        ("effects", f"{work.effect_images:,} more pictures, without and with adaptations"),
        ("parameters", parameters),
        ("training", f"{work.passes:,} passes, {work.training:.3g} FLOP"),
        ("sampling", f"{footprint.image_flops:.3g} FLOP an image, {work.sampling:.3g} FLOP"),
        ("GPU-hours", f"{hours:.3g} at least, at {assumed_tflops:g} TFLOP/s"),
        ("weights", size(sum(footprint.weight_bytes.values())) + _counted_in(run)),
        ("embeddings", f"{size(work.embeds_bytes)} for {work.prompts:,} prompts of {footprint.prompt_tokens} tokens"),
        ("images", f"{size(work.image_bytes)} at most (uncompressed)"),
    ]
    layers = getattr(getattr(run.method, "editor", None), "layers", ())
    if layers and (unseen := unseen_layers(run.backbone.reach(), layers)):
        lines.append(("edit targets", unseen))
    lines += [("note", note) for note in run.benchmark.notes]
    return "\n".join(f"{name:>14}  {value}" for name, value in lines)


def _counted_in(run: Run) -> str:
    """Return a note on the dtype that bytes were counted in, if the run's dtype is not settled yet."""
    open_yet = getattr(run.backbone, "dtype", None) == AUTO
    return f" in bfloat16; backbone.dtype={AUTO} is settled by the first command that computes" if open_yet else ""


def effects_pictures(run: Run) -> int:
    """Return the number of images of the effects stage.

    These are the unrelated images, the same again with every adaptation, and the reconstructions with all adaptations
    at once.
    """
    if not run.effects.enabled:
        return 0
    unrelated = len(run.effects.pictures) * (1 + len(adapt_jobs(run.concepts, run.method)))
    together = counts(run.plan)[Task.RECONSTRUCTION] if interferes(run) else 0
    return unrelated + together


def size(count: float) -> str:
    """Return a number of bytes as text.

    >>> size(3.21 * 2**30)
    '3.21 GiB'
    """
    for unit, name in ((TIB, "TiB"), (GIB, "GiB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count / MIB:.2f} MiB"
