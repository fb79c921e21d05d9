"""What the pages of the report show beyond its tables: pictures, prompts, configurations, and the commands behind
them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from knowcusbench.config import build
from knowcusbench.report import EffectsInput, Leaderboard, ReportInput, Statistics
from knowcusbench.report.ablation import Ablation
from knowcusbench.report.agreement import Agreement
from knowcusbench.report.effects import confusions
from knowcusbench.report.html import GalleryInput, PagesInput
from knowcusbench.report.types import RowKind
from knowcusbench.stages.prepare import Run
from knowcusbench.store import read_json

DRAWING = ("bench", "generate")
"""Verbs whose commands draw images."""

OWN = (RowKind.METHOD, RowKind.CONTROL)

PUBLIC = (".csv", ".md", ".tex", ".json", ".pdf")
"""Endings of the report's files that a reader of the pages may want."""


def pages_input(
    run: Run,
    inputs: ReportInput,
    board: Leaderboard,
    statistics: Statistics,
    *,
    agreement: tuple[Agreement, ...],
    measured: EffectsInput | None,
    effects: Leaderboard | None,
    ablation: Ablation | None,
) -> PagesInput:
    """Everything that the pages show. Must come after the other files of the report, to which they link."""
    configs = {label: yaml.safe_load(run.store.config(label).read_text()) for label in inputs.methods}
    records = [read_json(path) for path in sorted((run.store.root / "provenance").glob("*.json"))]
    labels = tuple(row.label for row in board.rows if row.kind in OWN)
    return PagesInput(
        board=board,
        statistics=statistics,
        agreement=agreement,
        effects=effects,
        confusions=confusions(measured) if measured else {},
        ablation=ablation,
        gallery=GalleryInput(
            concepts=run.concepts,
            plan=run.plan,
            methods=labels,
            competing=frozenset(row.label for row in board.rows if row.kind is RowKind.METHOD),
            columns=statistics.columns,
            scores=inputs.scores,
            drawn={label: frozenset(_drawn(run, label)) for label in labels},
            image=run.store.image,
            subjects=dict(_subjects(run, configs)),
            commands=_commands(run, labels),
        ),
        identity=read_json(run.store.identity),
        configs=configs,
        records=records,
        files=sorted(path.name for path in run.store.report.iterdir() if path.suffix in PUBLIC),
    )


def _drawn(run: Run, label: str) -> Iterator[str]:
    """Ids of the samples of which the method has an image."""
    for concept in run.concepts:
        folder = run.store.image(label, concept.name, "*").parent
        yield from (file.stem for file in folder.glob("[!.]*.png"))


def _subjects(run: Run, configs: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str, int], str]]:
    """What stands for a concept in the prompts of the methods that do not use the knowledge phrase."""
    for label, config in configs.items():
        method = build(config["method"], f"{label}: method")
        for concept in run.concepts:
            for number, item in enumerate(concept.knowledge):
                subject = method.subject(concept, item)
                if subject != item.phrase:
                    yield (label, concept.name, number), subject


def _commands(run: Run, labels: Sequence[str]) -> dict[str, list[str]]:
    """For each method the last command that drew images, as one that draws those that are missing."""
    commands = {}
    for path in sorted((run.store.root / "provenance").glob("*.json")):
        record, label = read_json(path), path.stem.partition("-")[2]
        program, *arguments = record["command"]
        if label in labels and record["verb"] in DRAWING and program == "knowcusbench":
            commands[label] = [program, "generate", *arguments]
    return commands
