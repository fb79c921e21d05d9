"""The contents of the report's pages beyond its tables: images, prompts, configurations and the commands behind
them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from knowcusbench.analysis.ablation import Ablation
from knowcusbench.analysis.agreement import Agreement
from knowcusbench.analysis.effects import EffectsInput, confusions
from knowcusbench.analysis.statistics import Statistics
from knowcusbench.analysis.types import Leaderboard, RowKind
from knowcusbench.config.overrides import quoted
from knowcusbench.report.pages import Failure, GalleryInput, PagesInput
from knowcusbench.run.identity import read_identity
from knowcusbench.run.layout import GENERATE
from knowcusbench.run.results import Results
from knowcusbench.run.run import Run
from knowcusbench.stages.report.masks import mask_layers
from knowcusbench.stages.score import SCORE
from knowcusbench.storage.files import names_in

DRAWING = ("bench", "generate")
"""Verbs whose commands draw images."""

OWN = (RowKind.METHOD, RowKind.CONTROL)
"""Kinds of leaderboard rows that belong to the run's own methods."""

PUBLIC = (".csv", ".md", ".tex", ".json", ".pdf")
"""Suffixes of the report's files that the pages link to."""


def pages_input(
    run: Run,
    results: Results,
    statistics: Statistics,
    *,
    agreement: tuple[Agreement, ...],
    measured: EffectsInput | None,
    effects: Leaderboard | None,
    ablation: Ablation | None,
) -> PagesInput:
    """Return everything that the pages show. Call it after the report's other files are written, since the pages link
    to them."""
    inputs, board, records = results.report_input, results.board, results.commands
    labels = tuple(row.label for row in board.rows if row.kind in OWN)
    commands = _commands(run, labels, records)
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
            drawn={label: frozenset(results.records.drawn(label)) for label in labels},
            failed={label: _failed(results, label) for label in labels},
            image=run.store.image,
            subjects=dict(_subjects(run)),
            commands={label: _with_verb(words, GENERATE) for label, words in commands.items()},
            masks=mask_layers(
                run, results, labels, {label: _with_verb(words, SCORE) for label, words in commands.items()}
            ),
        ),
        identity=read_identity(run.store),
        configs={label: results.config(label) for label in inputs.methods},
        records=list(records.values()),
        files=sorted(name for name in names_in(run.store.report) if name.endswith(PUBLIC)),
    )


def _failed(results: Results, label: str) -> dict[str, Failure]:
    """Return the failures of a method's images that could not be drawn, by id."""
    known = [entry.name for entry in fields(Failure)]
    return {
        name: Failure(**{key: record[key] for key in known if key in record})
        for name, record in results.failures(label).items()
    }


def _subjects(run: Run) -> Iterator[tuple[tuple[str, str, int], str]]:
    """Yield the words for a concept in prompts, for methods that do not use the knowledge phrase."""
    for label, record in run.methods.items():
        for concept in run.concepts:
            for number, subject in enumerate(record.subjects.get(concept.name, ())):
                if subject != concept.knowledge[number].phrase:
                    yield (label, concept.name, number), subject


def _commands(run: Run, labels: Sequence[str], records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return each method's last command that drew images, as words without the verb and with the run's present
    directory."""
    place = [f"run.root={quoted(str(run.store.root.parent))}", f"run.name={quoted(run.store.root.name)}"]
    words = {
        name.removesuffix(".json").partition("-")[2]: record["command"]
        for name, record in records.items()
        if record["verb"] in DRAWING
    }
    return {
        label: [
            *(word for word in arguments if not word.startswith(("run.root=", "run.name="))),
            *place,
        ]
        for label, (program, *arguments) in words.items()
        if label in labels and program == "knowcusbench"
    }


def _with_verb(words: Sequence[str], verb: str) -> list[str]:
    return ["knowcusbench", verb, *words]
