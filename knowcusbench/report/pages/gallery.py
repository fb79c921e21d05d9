"""The gallery: every picture of a run, a page per concept, methods side by side for the same prompt and seed."""

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment
from markupsafe import Markup, escape

from knowcusbench.analysis.columns import MISSING
from knowcusbench.analysis.types import Column
from knowcusbench.benchmark.types import Concept, Prompt, Task
from knowcusbench.report.pages.environment import file_name
from knowcusbench.report.pages.masks import MaskFolder
from knowcusbench.report.pages.score_array import Scores, score_array
from knowcusbench.report.pages.thumbnails import Picture, outdated, write_pictures
from knowcusbench.report.pages.types import GalleryInput
from knowcusbench.storage.files import names_in, write_atomic

ANY = 16 * "0"
"""Placeholder of an id in a command."""

PAGE_BYTES = 2_500_000
"""Approximate size of a page; a concept with more samples has several."""

PICTURE_BYTES, SAMPLE_BYTES, MASK_BYTES = 400, 600, 60
"""Approximate bytes of a picture with its scores, of a sample without its texts, and of a mask's data on a page."""

ERROR_LENGTH = 160
"""Characters of an error shown instead of a picture; the report's first page has all of it."""

EXTREMES = 6
"""Number of best and of worst samples shown for each column."""

FOLDER = "gallery"


ID, SCORE, ERROR = "\0id", "\0score", "\0error"
"""Placeholders of a sample's id, score and error in a figure that is rendered once for all samples of a method.

No label contains them: it is a file name, which can't have the character 0.
"""


class SampleView(NamedTuple):
    """A sample, and the figures of its images."""

    id: str
    task: str
    prompt: str
    prompt_aspect: str
    seed: int
    figures: Markup


class Extreme(NamedTuple):
    """One of the best or worst pictures: the address of its sample, its prompt, and the picture."""

    address: str
    prompt: str
    label: str
    small: str
    score: str


@dataclass(frozen=True)
class Page:
    """Some samples of a concept, as row numbers of the plan, and the file that shows them."""

    concept: Concept
    file: str
    number: int
    rows: list[int]


class Gallery:
    """All pages of a run's pictures. Writes to `<directory>/gallery`; addresses are relative to that folder."""

    def __init__(self, inputs: GalleryInput, directory: Path, environment: Environment) -> None:
        self.inputs = inputs
        self._environment = environment
        self.root = directory / FOLDER
        self.metrics = list(dict.fromkeys(column.metric for column in inputs.columns))
        self.columns: dict[str, list[Column]] = {
            task.value: [column for column in inputs.columns if column.task is task] for task in Task
        }
        self.by_concept = {
            str(name): list(rows) for name, rows in inputs.plan.groupby("concept", observed=True).indices.items()
        }
        self._plan = {name: inputs.plan[name].tolist() for name in inputs.plan.columns}
        self.faults: list[str] = []
        self.masks = [MaskFolder(layer, self.root) for layer in inputs.masks]

    @cached_property
    def score_array(self) -> Scores:
        return score_array(self.inputs.plan, self.inputs.methods, self.metrics, self.inputs.scores)

    @cached_property
    def pages(self) -> list[Page]:
        """The pages in the order of concepts; a concept's knowledge items follow each other."""
        return [page for concept in self.inputs.concepts for page in self._pages(concept)]

    def _pages(self, concept: Concept) -> Iterator[Page]:
        knowledge, prompts = self._plan["knowledge"], self._plan["prompt"]
        rows = sorted(self.by_concept.get(concept.name, []), key=knowledge.__getitem__)
        fixed = SAMPLE_BYTES + (PICTURE_BYTES + MASK_BYTES * len(self.masks)) * len(self.inputs.methods)
        ends = np.cumsum([fixed + 2 * len(prompts[row]) for row in rows]) // PAGE_BYTES
        name = file_name(concept.name)
        for number, (_, members) in enumerate(groupby(zip(rows, ends, strict=True), key=lambda pair: pair[1])):
            yield Page(
                concept, f"{name}.{number + 1}.html" if number else f"{name}.html", number, [row for row, _ in members]
            )

    def write_pictures(self) -> None:
        """Make the missing pictures and masks, and record unreadable images in `faults`."""
        self.faults = write_pictures([picture for group in self._pictures() for picture in outdated(group)])
        for masks in self.masks:
            masks.write()

    def _pictures(self) -> Iterator[list[Picture]]:
        """Yield all pictures, grouped by their directory."""
        ids = self._plan["id"]
        for concept in self.inputs.concepts:
            place = self.root / self._references(concept)
            for number, file in enumerate((*concept.images, *concept.held_out)):
                yield [Picture(file, place / str(number))]
            for label in self.inputs.methods:
                folder = self.root / self._folder(concept, label)
                drawn = self.inputs.drawn.get(label, frozenset())
                yield [
                    Picture(self.inputs.image(label, concept.name, ids[row]), folder / ids[row])
                    for row in self.by_concept.get(concept.name, [])
                    if ids[row] in drawn
                ]

    @staticmethod
    def _folder(concept: Concept, label: str) -> str:
        return f"images/{file_name(concept.name)}/{file_name(label)}"

    @staticmethod
    def _references(concept: Concept) -> str:
        return f"references/{file_name(concept.name)}"

    def references(self, concept: Concept) -> list[tuple[int, str, str, str]]:
        """Return number, small and large picture and name of each of the concept's references."""
        folder = self._references(concept)
        there = set(names_in(self.root / folder))
        found = []
        for number, file in enumerate((*concept.images, *concept.held_out)):
            if f"{number}.webp" in there:
                large = f"{number}.large.webp" if f"{number}.large.webp" in there else f"{number}.webp"
                held_out = number >= len(concept.images)
                name = f"{file.name} (held out)" if held_out else file.name
                found.append((number, f"{folder}/{number}.webp", f"{folder}/{large}", name))
        return found

    def samples(self, page: Page) -> Iterator[tuple[int, Iterator[SampleView]]]:
        """Yield the page's samples in its order, grouped by knowledge item."""
        figures = [self._figures(page.concept, label) for label in self.inputs.methods]
        for number, rows in groupby(page.rows, key=self._plan["knowledge"].__getitem__):
            phrase = page.concept.knowledge[number].phrase
            yield number, (self._sample(phrase, row, figures) for row in rows)

    def _sample(self, phrase: str, row: int, figures: Sequence[Callable[[str, str], str]]) -> SampleView:
        plan = self._plan
        sample, columns = plan["id"][row], self.columns[plan["task"][row]]
        place = self.metrics.index(columns[0].metric) if columns else None
        scores = [math.nan] * len(figures) if place is None else self.score_array[row, :, place].tolist()
        decimals = columns[0].decimals if columns else 0
        return SampleView(
            id=sample,
            task=plan["task"][row],
            prompt=Prompt(plan["prompt"][row], "").fill(phrase),
            prompt_aspect=plan["prompt_aspect"][row],
            seed=plan["seed"][row],
            figures=Markup(
                "".join(of(sample, _score(value, decimals)) for of, value in zip(figures, scores, strict=True))
            ),
        )

    def _figures(self, concept: Concept, label: str) -> Callable[[str, str], str]:
        """Return a function that renders a method's figure of a sample from its id and score.

        The template is rendered once for each kind of figure, not for each of half a million.
        """
        macro = self._environment.get_template("figure.html.jinja").module.figure  # type: ignore[attr-defined]
        place = f"{self._folder(concept, label)}/{ID}"
        kinds = {
            kind: str(macro(label, SCORE, small, large, absent, error))
            for kind, small, large, absent, error in (
                ("large", f"{place}.webp", f"{place}.large.webp", "", ""),
                ("small", f"{place}.webp", f"{place}.webp", "", ""),
                ("unreadable", "", "", "unreadable", ""),
                ("failed", "", "", "failed", ERROR),
                ("not drawn", "", "", "not drawn", ""),
            )
        }
        there = self._there(concept, label)
        drawn, failed = self.inputs.drawn.get(label, frozenset()), self.inputs.failed.get(label, {})

        def figure(sample: str, score: str) -> str:
            if sample not in drawn:
                kind = "failed" if sample in failed else "not drawn"
            elif f"{sample}.webp" not in there:
                kind = "unreadable"
            else:
                kind = "large" if f"{sample}.large.webp" in there else "small"
            made = kinds[kind].replace(ID, sample).replace(SCORE, score)
            return made.replace(ERROR, _shortened(failed[sample].error)) if kind == "failed" else made

        return figure

    def _there(self, concept: Concept, label: str) -> frozenset[str]:
        """Return the names of the pictures of a concept by a method."""
        return frozenset(names_in(self.root / self._folder(concept, label)))

    def data(self, page: Page) -> dict[str, Any]:
        """Return the data of the page's script: texts, and the scores by method and column."""
        inputs, concept = self.inputs, page.concept
        return {
            "concept": concept.name,
            "knowledge": [[item.phrase, item.question, item.answer, item.aspect] for item in concept.knowledge],
            "columns": {
                task: [[column.key, column.title, column.decimals, column.higher_is_better] for column in columns]
                for task, columns in self.columns.items()
            },
            "methods": [
                {
                    "label": label,
                    "subjects": [
                        inputs.subjects.get((label, concept.name, number), item.phrase)
                        for number, item in enumerate(concept.knowledge)
                    ],
                    "command": self._command(label, concept),
                }
                for label in inputs.methods
            ],
            "samples": dict(self._scores(page)),
            "masks": [[masks.layer.title, masks.folder] for masks in self.masks],
            "references": [
                [masks.of_reference(file) for masks in self.masks] for file in (*concept.images, *concept.held_out)
            ],
        }

    def _command(self, label: str, concept: Concept) -> list[str]:
        """Return the command that draws an image again, split at the sample's id."""
        if label not in self.inputs.commands:
            return []
        file = shlex.quote(str(self.inputs.image(label, concept.name, ANY)))
        before, _, after = file.rpartition(ANY)
        return [f"rm {before}", f"{after} && {shlex.join(self.inputs.commands[label])}"]

    def _scores(self, page: Page) -> Iterator[tuple[str, list[Any]]]:
        """Yield for each sample its template, its scores by method, and masks by method if there are any."""
        for task, columns in self.columns.items():
            rows = [row for row in page.rows if self._plan["task"][row] == task]
            of_task = self.score_array[rows][:, :, [self.metrics.index(column.metric) for column in columns]]
            values = of_task.astype(np.float64).round(5).astype(object)
            values[np.isnan(of_task)] = None
            for row, methods in zip(rows, values.tolist(), strict=True):
                sample = self._plan["id"][row]
                known = [self._plan["prompt"][row], methods]
                if self.masks:
                    known.append([[m.of_sample(label, sample) for m in self.masks] for label in self.inputs.methods])
                yield sample, known

    def extremes(self, column: Column) -> tuple[list[Extreme], list[Extreme]]:
        """Return the best and the worst pictures of a column among the competing methods."""
        competing = [place for place, label in enumerate(self.inputs.methods) if label in self.inputs.competing]
        rows = np.flatnonzero((self.inputs.plan["task"] == column.task).to_numpy())
        values = self.score_array[rows][:, competing, self.metrics.index(column.metric)].ravel()
        order = np.argsort(values, kind="stable")
        order = order[: len(order) - int(np.isnan(values).sum())]
        if column.higher_is_better:
            order = order[::-1]

        def view(place: int) -> Extreme:
            row, label = int(rows[place // len(competing)]), self.inputs.methods[competing[place % len(competing)]]
            page, sample = self._page_of[row], self._plan["id"][row]
            there = f"{sample}.webp" in self._there(page.concept, label)
            return Extreme(
                address=self.address(sample),
                prompt=Prompt(self._plan["prompt"][row], "").fill(
                    page.concept.knowledge[self._plan["knowledge"][row]].phrase
                ),
                label=label,
                small=f"{self._folder(page.concept, label)}/{sample}.webp" if there else "",
                score=_score(float(values[place]), column.decimals),
            )

        count = min(EXTREMES, len(order) // 2)
        return [view(int(place)) for place in order[:count]], [view(int(place)) for place in order[::-1][:count]]

    def address(self, sample: str) -> str:
        """Return the address of a sample in the gallery; empty for an unknown id."""
        row = self._row_of.get(sample)
        return "" if row is None else f"{self._page_of[row].file}#s{sample}"

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {sample: row for row, sample in enumerate(self._plan["id"])}

    @cached_property
    def _page_of(self) -> dict[int, Page]:
        return {row: page for page in self.pages for row in page.rows}


def _shortened(error: str) -> Markup:
    return escape(error if len(error) <= ERROR_LENGTH else f"{error[: ERROR_LENGTH - 1]}…")


def _score(value: float, decimals: int) -> str:
    return MISSING if math.isnan(value) else f"{value:z.{decimals}f}"


def write_gallery(gallery: Gallery, environment: Environment, run: str) -> list[Path]:
    """Write the overview and the pages of all concepts, and return the files. The pictures must exist."""
    template = environment.get_template("gallery_concept.html.jinja")
    firsts = [page for page in gallery.pages if page.number == 0]
    written = []
    for page in gallery.pages:
        siblings = [other for other in gallery.pages if other.concept is page.concept]
        place = firsts.index(siblings[0])
        html = template.render(
            run=run,
            gallery=gallery,
            page=page,
            siblings=siblings,
            firsts=firsts,
            before=firsts[place - 1] if place else None,
            after=firsts[place + 1] if place + 1 < len(firsts) else None,
            root="../",
        )
        written.append(gallery.root / page.file)
        write_atomic(written[-1], html.encode())
    overview = environment.get_template("gallery_overview.html.jinja").render(
        run=run, gallery=gallery, firsts=firsts, root="../"
    )
    written.append(gallery.root / "index.html")
    write_atomic(written[-1], overview.encode())
    return written
