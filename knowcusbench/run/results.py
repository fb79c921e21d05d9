"""Results: the one reader of a run directory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from knowcusbench.analysis.ablation import AblationInput
from knowcusbench.analysis.columns import number
from knowcusbench.analysis.effects import EffectsInput
from knowcusbench.analysis.leaderboard import build_leaderboard, leaderboard_frame
from knowcusbench.analysis.statistics import compared
from knowcusbench.analysis.types import Leaderboard, ReportInput
from knowcusbench.benchmark.types import Prompt, Task
from knowcusbench.errors import ConfigError, did_you_mean
from knowcusbench.machine.progress import listening
from knowcusbench.run.ablation import ablation_input
from knowcusbench.run.effects import effects_input, measured_effects
from knowcusbench.run.layout import RunStore
from knowcusbench.run.recorded import read_recorded
from knowcusbench.run.records import RunRecords
from knowcusbench.run.run import Run
from knowcusbench.run.scores import report_input, stage_costs
from knowcusbench.storage.files import location, names_in
from knowcusbench.storage.images import read_image
from knowcusbench.storage.tables import read_json, read_table


@dataclass(frozen=True, eq=False)
class Results:
    """The results of a run, as its directory has them now: finished or not, of this version or an earlier one.

    What is read once is kept; `open_run` again shows what came since. In a notebook it shows as its leaderboard.

    Attributes:
        records: what the run says of itself.
        notes: what could not be read as it should, a line each.
    """

    records: RunRecords
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: str | Path) -> "Results":
        """Open a run directory, or an fsspec URL of one. No plug-in and no benchmark need be there.

        Raises RunError if there is no run.
        """
        notes: list[str] = []
        with listening(notes.append):
            records = RunRecords.read(RunStore(location(str(path))))
        return cls(records, tuple(notes))

    @classmethod
    def of(cls, run: Run) -> "Results":
        """Return the results of the run that a command works on."""
        return cls(RunRecords.of(run))

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.records.store.root

    @cached_property
    def report_input(self) -> ReportInput:
        """What tables are built from."""
        return report_input(self.records)

    @cached_property
    def board(self) -> Leaderboard:
        """The leaderboard with all that it says besides numbers: marks, footnotes, protocols."""
        return build_leaderboard(self.report_input)

    def leaderboard(self) -> pd.DataFrame:
        """Return the leaderboard: a row per method, floor, ceiling and published method, as in `leaderboard_frame`."""
        return leaderboard_frame(self.board)

    @cached_property
    def methods(self) -> pd.DataFrame:
        """Every method by label, with its role and numbers of images planned, drawn, missing and other than scored."""
        planned, inputs = len(self.records.plan), self.report_input
        rows = {
            label: {
                "role": role.value,
                "planned": planned,
                "drawn": planned - inputs.gone.get(label, 0),
                "missing": inputs.gone.get(label, 0),
                "altered": inputs.altered.get(label, 0),
            }
            for label, role in inputs.methods.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Every score, with the sample's knowledge (an index), prompt and seed.

        The columns are sample_id, method, task, concept, knowledge_aspect, prompt_aspect, metric, value, protocol,
        note, knowledge, prompt and seed. The note says why a value is NaN.
        """
        samples = self.records.plan.set_index("id")[["knowledge", "prompt", "seed"]]
        return self.report_input.scores.join(samples, on="sample_id")

    @property
    def costs(self) -> pd.DataFrame:
        """What each method spent on each concept.

        The columns are method, concept, seconds, peak_memory_bytes and adapter_bytes of the adaptation, and
        image_seconds of drawing an image.
        """
        return self.report_input.costs

    @cached_property
    def stage_costs(self) -> pd.DataFrame:
        """The same stage by stage, drawing included."""
        return stage_costs(self.records)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """What was measured of adaptations beside the samples, as in `measured_effects`; no rows if nothing was."""
        return measured_effects(self.records)

    def effects_input(self, run: Run) -> EffectsInput | None:
        """Return what tables of effects are built from; None if nothing was measured."""
        return effects_input(self.records, run.concepts, run.effects.protocol)

    def ablation_input(self, measured: EffectsInput | None) -> AblationInput | None:
        """Return what the tables of an ablation are built from; None if the run is no ablation."""
        return ablation_input(self.records, self.report_input, measured)

    def images(self, method: str, *, concept: str | None = None, task: str | None = None) -> pd.DataFrame:
        """Return the images of a method that are there, one row each.

        Args:
            method: its label.
            concept: only of this one.
            task: "reconstruction" or "generation"; both if None.

        The columns are those of the plan (id, concept, task, knowledge, knowledge_aspect, prompt, prompt_aspect, seed),
        text (the prompt with the words that stood for the concept; None where no record says them) and path. `image`
        opens one.

        Raises ConfigError for a name that the run does not have.
        """
        self._check(method, self.records.methods, "method")
        plan = self.records.plan
        if concept is not None:
            self._check(concept, self.records.concepts, "concept")
            plan = plan[plan["concept"] == concept]
        if task is not None:
            self._check(task, [one.value for one in Task], "task")
            plan = plan[plan["task"] == task]
        plan = plan[plan["id"].isin(self.records.drawn(method))].reset_index(drop=True)
        subjects = self.records.methods[method].subjects
        keys = zip(plan["concept"], plan["knowledge"], plan["prompt"], plan["id"], strict=True)
        texts, paths = [], []
        for name, item, prompt, sample in keys:
            texts.append(Prompt(prompt, "").fill(subjects[name][item]) if name in subjects else None)
            paths.append(self.records.store.image(method, name, sample))
        return plan.assign(text=pd.Series(texts, dtype=object), path=pd.Series(paths, dtype=object))

    def image(self, method: str, sample: str) -> Image.Image:
        """Return an image of a method by its sample's id. Raises ConfigError for an unknown sample, ImageError for an
        image that is not there or damaged."""
        self._check(method, self.records.methods, "method")
        found = self.records.plan.loc[self.records.plan["id"] == sample, "concept"]
        if found.empty:
            raise ConfigError(f"{self.path}: no sample {sample!r}; `images` has their ids")
        return read_image(self.records.store.image(method, str(found.iloc[0]), sample))

    def compare(self, method: str, other: str) -> pd.DataFrame:
        """Return the differences of two methods, `method` minus `other`, over the samples that both have.

        One row per task and metric: mean, low and high (the ends of its 95% interval over concepts; NaN over fewer than
        three), samples, concepts, and p (by sign flips, not corrected for other comparisons).

        Raises ConfigError for a method that the run does not have.
        """
        for label in (method, other):
            self._check(label, self.records.methods, "method")
        if method == other:
            raise ConfigError(f"{self.path}: {method!r} is compared with itself; name two methods")
        return compared(self.report_input, method, other)

    def score_table(self, method: str, metric: str) -> pd.DataFrame | None:
        """Return the table of a method's scores as it was written, with details and stamps; None if there is none."""
        path = self.records.store.scores(method, metric)
        return read_table(path) if path.exists() else None

    def config(self, method: str) -> dict[str, Any]:
        """Return the configuration that a method was run with."""
        return read_recorded(self.records.store, method)[0]

    @cached_property
    def commands(self) -> Mapping[str, dict[str, Any]]:
        """The records of the commands that made the run, by file name, in the order of their times."""
        folder = self.records.store.provenance("", "").parent
        return {name: read_json(folder / name) for name in sorted(names_in(folder))}

    def failures(self, method: str) -> Mapping[str, dict[str, Any]]:
        """Return why samples of a method could not be drawn, by id."""
        ids = (name.removesuffix(".json") for name in names_in(self.records.store.failure(method, "").parent))
        return {name: read_json(self.records.store.failure(method, name)) for name in ids}

    def _check(self, name: str, known: Mapping[str, Any] | Sequence[str], what: str) -> None:
        if name not in known:
            raise ConfigError(f"{self.path}: no {what} {name!r}{did_you_mean(name, known)}")

    def __repr__(self) -> str:
        records = self.records
        return f"Results({str(self.path)!r}: {', '.join(records.methods)}; {len(records.concepts)} concepts)"

    def _repr_html_(self) -> str:
        """The leaderboard as people read it."""
        board = self.board
        rows = [
            [row.title, *(number(*pair) for pair in zip(board.columns, row.cells, strict=True))] for row in board.rows
        ]
        table = pd.DataFrame(rows, columns=["", *(column.title for column in board.columns)])
        return str(table.to_html(index=False))
