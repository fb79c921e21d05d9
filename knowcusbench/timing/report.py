"""Time of the plan, a resume and the report for the paper's full cross product: `make timing`.

    python -m knowcusbench.timing.report [--methods 3] [--prompts 199]

35 concepts with 5 knowledge items each, every prompt for every concept, 5 seeds; made-up scores of 8 metrics, with
floors and ceilings. No image is drawn, so the pages have no pictures.
"""

import argparse
import contextlib
import io
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import yaml

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.benchmark.types import Benchmark, Concept, KnowledgeAspect, KnowledgeItem, Prompt, PromptAspect
from knowcusbench.config.build import build
from knowcusbench.config.compose import compose_config, read_config
from knowcusbench.config.schema import Config
from knowcusbench.run.jobs import existing_images
from knowcusbench.run.layout import RunStore
from knowcusbench.run.plan import make_plan, select_concepts
from knowcusbench.run.prepare import effects_spec, paper_spec
from knowcusbench.run.run import Run
from knowcusbench.stages.generate import generate_jobs
from knowcusbench.stages.report.report import report
from knowcusbench.storage.tables import write_json, write_table

CONCEPTS, ITEMS = 35, 5

METRICS = ("clip_i", "clip_i_seg", "dino_i", "dinov2_i", "clip_t", "siglip_t", "pickscore", "hpsv2")

T = TypeVar("T")

METHODS = ("mokus", "naive_db", "enc_ft", "base", "anchor", "leak")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--methods", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=199)
    arguments = parser.parse_args()
    methods = METHODS[: arguments.methods]
    with tempfile.TemporaryDirectory() as folder:
        run, seconds = timed(lambda: make_run(Path(folder), methods, arguments.prompts))
        print(f"plan of {len(run.plan):,} samples: {seconds}, peak {peak():.2f} GB")
        make_scores(run, methods)
        with contextlib.redirect_stdout(io.StringIO()):
            _, seconds = timed(lambda: report(run))
        pages = sorted(run.store.report.rglob("*.html"), key=lambda page: page.stat().st_size)
        print(f"report of {len(methods)} methods and {len(METRICS)} metrics: {seconds}, peak {peak():.2f} GB")
        total = sum(page.stat().st_size for page in pages)
        print(f"  {len(pages)} pages, {total / 1e6:.0f} MB, the largest {pages[-1].stat().st_size / 1e6:.1f} MB")
        runs = [replace(run, label=method) for method in methods]
        for one in runs:
            make_files(one)
        found, seconds = timed(lambda: [(len(existing_images(one)), len(generate_jobs(one))) for one in runs])
        images, jobs = (sum(counts) for counts in zip(*found, strict=True))
        print(f"resume scan of {images:,} images: {seconds}, {jobs} jobs left, peak {peak():.2f} GB")


def made_up_benchmark(prompts: int) -> Benchmark:
    """Return a benchmark of KnowCusBench's shape, without pictures."""
    aspects, kinds = list(KnowledgeAspect), list(PromptAspect)
    everything = [Prompt(f"a photo of {{}} in place number {n}", kinds[n % len(kinds)]) for n in range(prompts)]
    concepts = tuple(
        Concept(
            name=f"concept_{n:02}",
            class_noun="dog",
            images=(),
            knowledge=tuple(
                KnowledgeItem(f"thing {k} of {n}", f"What is thing {k} of {n}?", "sks dog", aspects[(n + k) % 6])
                for k in range(ITEMS)
            ),
            prompts=tuple(everything[n::CONCEPTS]),
        )
        for n in range(CONCEPTS)
    )
    return Benchmark(Path(), concepts, "made up")


def make_run(folder: Path, methods: tuple[str, ...], prompts: int) -> Run:
    """Return a run directory with the configurations of the methods, and the plan."""
    store = RunStore(folder / "run")
    for method in methods:
        config, resolved = compose(method)
        store.config(method).parent.mkdir(parents=True, exist_ok=True)
        store.config(method).write_text(yaml.safe_dump(resolved), encoding="utf-8")
    write_json(store.identity, {"format": 1})
    benchmark = made_up_benchmark(prompts)
    config, resolved = compose(methods[0])
    concepts = select_concepts(benchmark, config.grid)
    return Run(
        store=store,
        label=methods[0],
        benchmark=benchmark,
        concepts=concepts,
        plan=make_plan(concepts, config.grid),
        backbone=build(config.backbone, "backbone"),
        method=build(config.method, "method"),
        metrics={name: build(node, f"metrics.{name}") for name, node in config.metrics.items()},
        protocols=dict.fromkeys(METRICS, "made up"),
        reduction=config.protocol.reduction,
        truth=(),
        effects=effects_spec(config, resolved),
        engine=build(config.engine, "engine"),
        cache=AdapterCache(folder / "adapters"),
        paper=paper_spec(config.report, partial=False),
    )


def compose(method: str) -> tuple[Config, dict[str, Any]]:
    """Return the configuration of a method on the full cross product."""
    overrides = [f"method={method}", "grid=crossed", f"metrics=[{','.join(METRICS)}]", "encoders=published"]
    return read_config(compose_config([*overrides, "benchmark=directory", "benchmark.path=."]))


def make_scores(run: Run, methods: tuple[str, ...]) -> None:
    """Write scores and floors of every sample, and ceilings of every concept: sums of concept, method and noise."""
    generator = np.random.default_rng(0)
    concepts = run.plan["concept"].cat.codes.to_numpy()
    for name, metric in run.metrics.items():
        tasks = run.plan["task"].isin([task.value for task in metric.tasks]).to_numpy()
        level = generator.normal(0.5, 0.1, CONCEPTS)
        for number, method in enumerate(methods):
            for place, lift in ((run.store.scores, 0.02 * number), (run.store.floors, -0.3)):
                values = level[concepts] + lift + generator.normal(0, 0.1, len(concepts))
                table = pd.DataFrame({"sample_id": run.plan["id"], "value": values})[tasks]
                write_table(place(method, name), table.assign(note="", details="", protocol="made up", stamp="1-1"))
        names = [concept.name for concept in run.concepts]
        write_table(run.store.ceilings(name), pd.DataFrame({"concept": names, "value": 0.9, "protocol": "made up"}))


def make_files(run: Run) -> None:
    """Write empty image files of the run's method, for all samples but the last concept's."""
    done = run.plan[run.plan["concept"] != run.concepts[-1].name]
    for concept in run.concepts:
        run.store.image(run.label, concept.name, "0").parent.mkdir(parents=True, exist_ok=True)
    for concept, sample in zip(done["concept"], done["id"], strict=True):
        run.store.image(run.label, concept, sample).touch()


def timed(work: Callable[[], T]) -> tuple[T, str]:
    """Return the result, and its wall-clock and CPU seconds."""
    started, busy = time.perf_counter(), time.process_time()
    result = work()
    return result, f"{time.perf_counter() - started:.1f} s ({time.process_time() - busy:.1f} s on the processor)"


def peak() -> float:
    """Return the peak memory of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
