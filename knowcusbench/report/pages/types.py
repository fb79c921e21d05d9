"""What goes into the pages: frozen data, so that they can be made and tested without a run."""

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
        error: the last attempt's, with its type.
        stage: what the image was for: "generate", or a stage whose images are not in the gallery.
        attempts: how often it was tried.
        traceback: of the last attempt.
    """

    error: str
    stage: str = "generate"
    attempts: int = 1
    prompt: str = ""
    noise_seed: int = 0
    traceback: str = ""


class ScoredMask(NamedTuple):
    """The name of the mask that a score was computed with, the share of the image that it covers (None if that is not
    known), and the score's note."""

    name: str
    coverage: float | None
    note: str


@dataclass(frozen=True, kw_only=True)
class MaskLayer:
    """The masks that a metric's scores were computed with.

    Attributes:
        metric, title: the metric's name and heading.
        directory: where masks are kept; None if there is none of its segmenter, as in another cache.
        names: of the files there.
        scored: label -> sample id -> mask; of all scores, also of those whose mask was not kept.
        references: reference image -> name of its mask.
        remedy: commands that compute what was not kept.
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
    """The pictures of a run and what is known of each.

    Attributes:
        concepts: with references, knowledge and prompts, in the order of the pages.
        plan: one row per sample, as `make_plan` makes it.
        methods: labels in the order in which their pictures stand side by side.
        competing: those of `methods` that are no controls.
        columns: the leaderboard's columns of scores.
        scores: columns sample_id, method, metric, value; NaN is a missing value.
        drawn: label -> ids of the samples that have an image.
        failed: label -> id -> what went wrong, of samples and of images for other stages.
        image: the image file of a label, concept and sample id.
        subjects: (label, concept, index of the knowledge item) -> what stands in the place of `{}` in that method's
            prompts, where it is not the knowledge phrase.
        commands: label -> the command that draws what is missing of the method; none where it is not known.
        masks: of the metrics that segment images.
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
    """Everything that the pages show. Nothing is computed again: the tables are those of the other files.

    Attributes:
        board, statistics, agreement: of the run's scores.
        effects: what methods do to everything else; None if it was not measured.
        confusions: label -> how adaptations were applied -> pictures by concept asked for and nearest concept.
        ablation: None in a run that compares no values of a setting.
        gallery: the pictures.
        identity: what the run is, as `run.json` says.
        configs: label -> the method's resolved configuration.
        records: of every command that made something here, by time: versions, commit, hardware, command line.
        files: other files of the report, to link to: names relative to the page.
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
