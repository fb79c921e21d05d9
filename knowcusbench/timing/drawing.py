"""Overhead of the harness in drawing, and speed-up by its workers: `make timing`.

    python -m knowcusbench.timing.drawing [--rounds 3]

All ways draw samples of the embedded benchmark with its backbone, in turns, and compute on one thread each; the harness
writes on another one. The shortest of several rounds counts, since other programs may run at the same time.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImagePipeline
from omegaconf import DictConfig

from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.loading import quiet_libraries
from knowcusbench.config.compose import compose_config, read_config
from knowcusbench.engine.base import Engine
from knowcusbench.engine.ray import RayEngine
from knowcusbench.machine.rates import seconds
from knowcusbench.run.dtype import settle_dtype
from knowcusbench.run.jobs import existing_images
from knowcusbench.run.plan import Sample, samples
from knowcusbench.run.prepare import prepare
from knowcusbench.run.run import Run
from knowcusbench.stages.adapt import adapt
from knowcusbench.stages.generate import generate

CONCEPTS = 4
"""Concepts of the embedded benchmark to draw: some 200 samples."""

ONE_BY_ONE, LOADED = 40, 5
"""Images drawn by one call each, and by one pipeline each; their time is scaled to all samples."""


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder))
        drawn = samples(run.plan)
        overhead(run, drawn, Path(folder) / "bare", rounds)
        workers(run, rounds)


def open_run(folder: Path) -> Run:
    words = ["method=base", f"run.root={folder}", f"cache_dir={folder / 'cache'}", "device=cpu", "metrics=[]"]
    # The loop of diffusers calls keeps the guidance passes apart, too.
    words.append("backbone.joint_guidance=false")
    composed: DictConfig = compose_config(words)
    concepts = sorted(path.stem for path in Path(composed.benchmark.path, "knowledge_data").glob("*.json"))[:CONCEPTS]
    composed.grid.concepts, composed.run.label = concepts, "base"
    settled, why = settle_dtype(composed, measure=True)
    print(why)
    run = prepare(*read_config(settled), makes_results=True)
    adapt(run)
    return run


def overhead(run: Run, drawn: Sequence[Sample], folder: Path, rounds: int) -> None:
    """Time the stage, the loop of a careful script, and careless scripts."""
    spec = run.backbone
    assert isinstance(spec, QwenImageSpec)
    draw(run)  # Load the backbone.
    pipeline = load(spec)
    ways = {"harness": partial(draw, run), "bare loop": partial(bare, run, spec, pipeline, drawn, folder)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way))
    best = {name: min(taken) for name, taken in times.items()}
    assert {path.stem for path in folder.glob("*.png")} == existing_images(run)
    print(f"{len(drawn)} samples of the embedded benchmark, one thread, the best of {rounds} rounds in turns")
    print(f"  bare loop, same batches   {best['bare loop']:6.1f} s")
    print(f"  harness                   {best['harness']:6.1f} s  {best['harness'] / best['bare loop'] - 1:+.1%}")
    single = seconds(partial(bare, run, spec, pipeline, drawn[:ONE_BY_ONE], folder, 1)) / ONE_BY_ONE * len(drawn)
    print(f"  a call per image          {single:6.1f} s  {single / best['harness']:.2f} times the harness")

    def load_and_draw() -> None:
        for sample in drawn[:LOADED]:
            bare(run, spec, load(spec), [sample], folder)

    loaded = seconds(load_and_draw) / LOADED * len(drawn)
    print(f"  a pipeline per image      {loaded:6.1f} s  {loaded / best['harness']:.1f} times the harness")


def load(spec: QwenImageSpec) -> Any:
    with quiet_libraries():
        pipeline = QwenImagePipeline.from_pretrained(spec.source, dtype=spec.torch_dtype)
    pipeline.set_progress_bar_config(disable=True)
    if spec.attention:
        pipeline.transformer.set_attention_backend(spec.attention)
    return pipeline


def bare(
    run: Run, spec: QwenImageSpec, pipeline: Any, drawn: Sequence[Sample], folder: Path, batch: int | None = None
) -> None:
    """Draw samples with diffusers alone, the seeds of a prompt in one batch of at most `batch`.

    No prompt is encoded twice in a row, and the negative one only once.
    """
    folder.mkdir(exist_ok=True)
    with torch.no_grad():
        negative, _ = pipeline.encode_prompt(spec.negative_prompt)
    for (name, number, template), cell in groupby(drawn, key=lambda s: (s.concept, s.knowledge, s.prompt)):
        concept = run.concept(name)
        prompt = template.replace("{}", run.method.subject(concept, concept.knowledge[number]))
        own = list(cell)
        size = batch or len(own)
        with torch.no_grad():
            embeds, _ = pipeline.encode_prompt(prompt)
        for part in (own[start : start + size] for start in range(0, len(own), size)):
            images = pipeline(
                prompt_embeds=embeds.expand(len(part), -1, -1),
                prompt_embeds_mask=torch.ones(len(part), embeds.shape[1], dtype=torch.long),
                negative_prompt_embeds=negative.expand(len(part), -1, -1),
                negative_prompt_embeds_mask=torch.ones(len(part), negative.shape[1], dtype=torch.long),
                true_cfg_scale=spec.true_cfg_scale,
                height=spec.height,
                width=spec.width,
                num_inference_steps=spec.steps,
                generator=[torch.Generator().manual_seed(sample.noise_seed) for sample in part],
            ).images
            for sample, image in zip(part, images, strict=True):
                image.save(folder / f"{sample.id}.png")


def draw(run: Run) -> None:
    """Run the generate stage from scratch: prompts are encoded again too, as in the loop."""
    for made in (run.store.image(run.label, "", "").parent.parent, run.store.prompts):
        shutil.rmtree(made, ignore_errors=True)
    generate(run)


def workers(run: Run, rounds: int) -> None:
    """Time one and two workers of Ray, on a core each."""

    def timed(engine: Engine) -> float:
        own = replace(run, engine=engine)
        draw(own)  # Load the backbones.
        taken = min(seconds(partial(draw, own)) for _ in range(rounds))
        engine.close()
        return taken

    one, two = (timed(RayEngine(workers=count)) for count in (1, 2))
    print(f"  one worker of Ray         {one:6.1f} s")
    print(f"  two workers of Ray        {two:6.1f} s  {one / two:.2f} times faster")


if __name__ == "__main__":
    main()
