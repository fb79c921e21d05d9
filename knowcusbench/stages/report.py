"""The report stage: all methods of the run directory in one leaderboard, and metrics against the truth."""

from collections.abc import Iterator

import pandas as pd
import yaml

from knowcusbench.adaptation.storage import RECORD_FILE, load_record
from knowcusbench.adaptation.types import Cost
from knowcusbench.benchmark.types import Prompt, Task
from knowcusbench.files import atomic_path
from knowcusbench.plan import counts
from knowcusbench.report import (
    AblationInput,
    MetricHeading,
    PictureRow,
    PublishedTable,
    ReportInput,
    Setting,
    build_ablation,
    build_agreement,
    build_leaderboard,
    load_published,
    picture_grid,
    render_console,
    write_ablation,
    write_ablation_figure,
    write_agreement,
    write_report,
)
from knowcusbench.stages.prepare import Run
from knowcusbench.store import read_table, writing

PICTURE_ROWS = 8
"""Concepts in the picture grid."""


def report(run: Run) -> None:
    """Write the tables of the run, and print the leaderboard."""
    inputs = report_input(run)
    board = build_leaderboard(inputs)
    with writing():
        write_report(run.store.report, board)
        write_agreement(run.store.report, build_agreement(inputs))
        grid = picture_grid(*_pictures(run))
        with atomic_path(run.store.report / "pictures.png") as temporary:
            grid.save(temporary, format="PNG")
        if compared := ablation_input(run, inputs):
            ablation = build_ablation(compared)
            write_ablation(run.store.report, ablation)
            write_ablation_figure(run.store.report, ablation)
    print(render_console(board))
    print(f"\nwritten to {run.store.report}")


def report_input(run: Run) -> ReportInput:
    """The results of every method in the run directory."""
    labels = run.store.labels()
    planned = counts(run.plan)
    return ReportInput(
        run=run.store.root.name,
        methods={label: _method_name(run, label) for label in labels},
        metrics={name: MetricHeading(title=m.title, tasks=m.tasks) for name, m in run.metrics.items()},
        concepts=len(run.concepts),
        scores=_concatenated(
            _scores(run, labels), ["sample_id", "method", "task", "concept", "metric", "value", "protocol", "note"]
        ),
        expected=pd.DataFrame(
            [(label, task, count) for label in labels for task, count in planned.items()],
            columns=["method", "task", "planned"],
        ),
        costs=pd.DataFrame(
            _costs(run, labels), columns=["method", "concept", "seconds", "peak_memory_bytes", "adapter_bytes"]
        ),
        ceilings=_concatenated(_ceilings(run), ["metric", "concept", "value"]),
        published=load_published(PublishedTable.MAIN),
        truth=run.truth,
    )


def ablation_input(run: Run, inputs: ReportInput) -> AblationInput | None:
    """The results of a run that compares values of a setting; None for any other run."""
    configs = {label: yaml.safe_load(run.store.config(label).read_text()) for label in inputs.methods}
    compared = {label: config["ablation"] for label, config in configs.items() if config.get("ablation")}
    if not compared:
        return None
    first = next(iter(compared.values()))
    return AblationInput(
        name=first["name"],
        title=first["title"],
        scale=first["scale"],
        settings=_in_order(
            [Setting(label=label, value=node["value"], taught=node["taught"]) for label, node in compared.items()],
            list(first["values"]),
        ),
        controls=[label for label in inputs.methods if label not in compared],
        metrics=inputs.metrics,
        scores=_concatenated(
            _scores(run, list(inputs.methods)), ["method", "task", "concept", "metric", "value", "knowledge"]
        ),
        costs=inputs.costs,
    )


def _in_order(settings: list[Setting], values: list[float | str]) -> list[Setting]:
    """Numbers by size, names as they are listed; those of a longer list, with which the sweep was run again, last."""
    numbers = sorted(value for value in {setting.value for setting in settings} if not isinstance(value, str))
    order = [*numbers, *values, *(setting.value for setting in settings)]
    return sorted(settings, key=lambda setting: order.index(setting.value))


def _pictures(run: Run) -> tuple[list[str], list[PictureRow]]:
    """One sample of each of the first concepts, drawn by every method; with each concept another of its prompts."""
    labels = run.store.labels()
    rows = []
    for number, concept in enumerate(run.concepts[:PICTURE_ROWS]):
        own = run.plan[run.plan["concept"] == concept.name]
        generated = own[own["task"] == Task.GENERATION.value]
        among = generated if len(generated) else own
        firsts = among[among["seed"] == among["seed"].iloc[0]]
        sample = firsts.iloc[number * len(firsts) // PICTURE_ROWS]
        drawn = [run.store.image(label, concept.name, sample["id"]) for label in labels]
        phrase = concept.knowledge[sample["knowledge"]].phrase
        text = Prompt(sample["prompt"], sample["prompt_aspect"]).fill(phrase)
        references = [concept.images[0] if concept.images else None]
        rows.append(PictureRow(text, [*references, *(path if path.exists() else None for path in drawn)]))
    return ["reference", *labels], rows


def _method_name(run: Run, label: str) -> str:
    """The method's own name, its file's: a label can be anything."""
    return str(yaml.safe_load(run.store.config(label).read_text())["method"]["_target_"]).split(".")[-2]


def _scores(run: Run, labels: list[str]) -> Iterator[pd.DataFrame]:
    samples = run.plan.set_index("id")[["task", "concept", "knowledge"]]
    for label in labels:
        for name in run.metrics:
            path = run.store.scores(label, name)
            if path.exists():
                table = read_table(path).join(samples, on="sample_id", how="inner")
                yield table.assign(method=label, metric=name)


def _ceilings(run: Run) -> Iterator[pd.DataFrame]:
    for name in run.metrics:
        path = run.store.ceilings(name)
        if path.exists():
            yield read_table(path).assign(metric=name)


def _concatenated(tables: Iterator[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    parts = [table[columns] for table in tables]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _costs(run: Run, labels: list[str]) -> Iterator[tuple[str, str, float, int, int]]:
    """Per method and concept: what its adaptations cost together, over all knowledge items where each has its own.
    Nothing for a concept of which only some are there."""
    for label in labels:
        for concept in run.concepts:
            whole = [run.store.adaptation(label, concept.name, None)]
            items = [run.store.adaptation(label, concept.name, n) for n in range(len(concept.knowledge))]
            for paths in (whole, items):
                if all((path / RECORD_FILE).exists() for path in paths):
                    records = [load_record(path) for path in paths]
                    costs = [Cost(**record["cost"]) for record in records]
                    yield (
                        label,
                        concept.name,
                        sum(cost.total_seconds for cost in costs),
                        max(cost.peak_memory_bytes for cost in costs),
                        sum(record["bytes"] for record in records),
                    )
