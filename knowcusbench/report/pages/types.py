"""The input of the pages: frozen data, so that they can be made and tested without a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from knowcusbench.analysis.ablation import Ablation
from knowcusbench.analysis.agreement import Agreement
from knowcusbench.analysis.statistics import Statistics
from knowcusbench.analysis.types import Column, Leaderboard
from knowcusbench.benchmark.types import Concept


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An image that could not be drawn.

    Attributes:
        error: error of the last attempt, with its type.
        stage: purpose of the image: "generate", or a stage whose images are not in the gallery.
        attempts: number of attempts.
        traceback: traceback of the last attempt.
    """

    error: str
    stage: str = "generate"
    attempts: int = 1
    prompt: str = ""
    noise_seed: int = 0
    traceback: str = ""


class ScoredMask(NamedTuple):
    """The mask of a score: its name, the share of the image that it covers (None if unknown), and the score's note."""

    name: str
    coverage: float | None
    note: str


@dataclass(frozen=True, kw_only=True)
class MaskLayer:
    """The masks behind a metric's scores.

    Attributes:
        metric, title: the metric's name and heading.
        directory: folder of the masks; None if its segmenter has none, as in another cache.
        names: names of the files in `directory`.
        scored: label -> sample id -> mask; for all scores, also where the mask was not kept.
        references: reference image -> name of its mask.
        remedy: commands that compute the missing masks.
    """

    metric: str
    title: str
    directory: Path | None
    names: frozenset[str]
    scored: Mapping[str, Mapping[str, ScoredMask]]
    references: Mapping[Path, str] = field(default_factory=dict)
    remedy: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class GalleryInput:
    """The pictures of a run and their data.

    Attributes:
        concepts: with references, knowledge and prompts, in the order of the pages.
        plan: one row per sample, as made by `make_plan`.
        methods: labels in the order of their pictures, side by side.
        competing: `methods` without controls.
        columns: the leaderboard's columns of scores.
        scores: columns sample_id, method, metric, value; NaN is a missing value.
        drawn: label -> ids of the samples that have an image.
        failed: label -> id -> failure, of samples and of images for other stages.
        image: function from label, concept and sample id to the image file.
        subjects: (label, concept, index of the knowledge item) -> replacement of `{}` in that method's prompts, where
            it is not the knowledge phrase.
        commands: label -> the command that draws the method's missing images, if known.
        masks: masks of the metrics that segment images.
    """

    concepts: tuple[Concept, ...]
    plan: pd.DataFrame
    methods: tuple[str, ...]
    competing: frozenset[str]
    columns: tuple[Column, ...]
    scores: pd.DataFrame
    drawn: Mapping[str, frozenset[str]]
    image: Callable[[str, str, str], Path]
    failed: Mapping[str, Mapping[str, Failure]] = field(default_factory=dict)
    subjects: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    masks: tuple[MaskLayer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PagesInput:
    """The content of the pages. Nothing is computed again: the tables equal those of the other files.

    Attributes:
        board, statistics, agreement: results of the run's scores.
        effects: side effects of the methods; None if they were not measured.
        confusions: label -> way of applying adaptations -> pictures by requested concept and nearest concept.
        ablation: None in a run that compares no values of a setting.
        gallery: the pictures.
        identity: identity of the run, as in `run.json`.
        configs: label -> the method's resolved configuration.
        records: records of the commands that produced this run, by time: versions, commit, hardware, command line.
        files: other files of the report to link to: names relative to the page.
    """

    board: Leaderboard
    statistics: Statistics
    agreement: tuple[Agreement, ...] = ()
    effects: Leaderboard | None = None
    confusions: Mapping[str, Mapping[str, pd.DataFrame]] = field(default_factory=dict)
    ablation: Ablation | None = None
    gallery: GalleryInput
    identity: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    records: Sequence[Mapping[str, Any]] = ()
    files: Sequence[str] = ()
