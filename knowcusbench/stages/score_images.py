"""Scores of a folder of images that any other program made, so that a published number can be computed again under each
protocol."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from knowcusbench.analysis.reduction import MEANS, concept_means, score_intervals
from knowcusbench.benchmark.layout import CONVERT, IMAGE_SUFFIXES, UNREAD_SUFFIXES
from knowcusbench.benchmark.tree import is_ignored
from knowcusbench.benchmark.types import Concept, Task
from knowcusbench.config.build import build
from knowcusbench.config.compose import compose_config, explain
from knowcusbench.errors import ConfigError, ImageError, did_you_mean
from knowcusbench.machine.progress import Progress, say
from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.metrics.one_colour import recorded_sample, score_sound
from knowcusbench.metrics.protocol import Reduction
from knowcusbench.run.identity import protocol_digest
from knowcusbench.stages.prompts_file import read_prompts
from knowcusbench.stages.score import say_unscored
from knowcusbench.storage.files import json_text
from knowcusbench.storage.names import text_key

CHUNK = 512

DEFAULTS = ("encoders=published", "benchmark=directory", "benchmark.path=.")
"""Overrides unless others are given: the images of other programs are of the real world."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of a folder of images. In a notebook they show as their summary.

    Attributes:
        table: one row per image and metric, in the order of the prompts; columns image, concept, metric, value (NaN
            where there is none), note (what keeps it from being scored, or had to be done otherwise than the protocol
            says) and details (a JSON object of numbers, or empty).
        summary: one row per metric (`summarise`).
        protocol: the protocol's settings, as plain data.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    protocol: Mapping[Any, Any]

    @property
    def unscored(self) -> pd.DataFrame:
        """The images that a metric has no score of, one row each, with the note that says why."""
        lacking = self.table[self.table["value"].isna()]
        return lacking.drop_duplicates("image")[["image", "note"]].reset_index(drop=True)

    def __repr__(self) -> str:
        return f"Scores by the protocol {self.protocol['name']}:\n{self.summary.to_string(index=False)}"

    def _repr_html_(self) -> str:
        return str(self.summary.to_html(index=False))


def score_images(images: Path, prompts: Path, references: Path | None, overrides: Sequence[str]) -> Scores:
    """Score a folder of images (`read_folder`) by a configuration.

    Raises ConfigError for what can't be used, and ImageError if no image can be scored.
    """
    chosen = {word.partition("=")[0] for word in overrides}
    defaults = [word for word in DEFAULTS if word.partition("=")[0] not in chosen]
    config = compose_config([*defaults, *overrides])
    metrics, digests = _metrics(config)
    folder = read_folder(images, prompts, references)
    if folder.left_out:
        say(f"knowcusbench: {folder.left_out} images of {images} have no row in {prompts}; left out")
    table = score_folder(folder, metrics)
    protocol = OmegaConf.to_container(config.protocol, enum_to_str=True)
    assert isinstance(protocol, dict)
    scores = Scores(table, summarise(table, metrics, digests, config.protocol.reduction), protocol)
    say_unscored(scores.unscored["note"].tolist())
    if len(scores.unscored) == len(folder.items):
        first = scores.unscored["note"].iloc[0]
        raise ImageError(f"--images: none of the images of {images} can be read; the first: {first}")
    return scores


@dataclass(frozen=True)
class Folder:
    """Images with their prompts, concepts and references.

    Attributes:
        items: one per row of the prompts file, in its order; `sample_id` is the image's path in the directory.
        left_out: number of images in the directory without a row.
    """

    items: tuple[ScoreItem, ...]
    left_out: int

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """The concepts with images, as far as metrics need to know them."""
        found = {item.concept: item for item in self.items}
        return tuple(Concept(name, item.class_noun, item.references, (), ()) for name, item in found.items())


def read_folder(images: Path, prompts: Path, references: Path | None) -> Folder:
    """Read the images of a directory.

    Args:
        images: a directory, with sub-directories or without.
        prompts: CSV, JSON (a list of objects, or an object of prompts by image) or JSON lines, with the columns of
            `COLUMNS` (`read_prompts`). An image is a path in `images`. Without the column "concept", an image's concept
            is its sub-directory, if `references` has one of that name.
        references: a directory of reference images, for rows that name no concept, or with one sub-directory of them
            for each concept. Hidden files and directories are skipped, here and in `images`.

    Raises ConfigError, naming the file and the fault.
    """
    for option, path in (("--images", images), ("--references", references)):
        if path and not path.is_dir():
            raise ConfigError(f"{option}: {path} is no directory")
    table = read_prompts(prompts)
    gallery = _references(references) if references else {}
    items = tuple(_item(row, images, gallery, f"{prompts}, row {number}") for number, row in enumerate(table, 1))
    if not items:
        raise ConfigError(f"{prompts}: has no rows")
    repeated = pd.Series([item.sample_id for item in items]).loc[lambda names: names.duplicated()]
    if len(repeated):
        raise ConfigError(f"{prompts}: {repeated.iloc[0]} has more than one row")
    known = {item.image.resolve() for item in items}
    return Folder(items, sum(path.resolve() not in known for path in _pictures_below(images)))


def _references(directory: Path) -> dict[str, tuple[Path, ...]]:
    """Return reference images by concept; those in the directory itself belong to the concept ""."""
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and not is_ignored(path.name))
    found = {"" if folder == directory else folder.name: _pictures(folder) for folder in (directory, *folders)}
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise ConfigError(f"--references: {directory} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def _pictures(folder: Path) -> tuple[Path, ...]:
    """Return the reference images in a directory. Raises ConfigError for one that can't be read."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not is_ignored(path.name))
    for path in files:
        if path.suffix.lower() in UNREAD_SUFFIXES:
            raise ConfigError(f"--references: {path}: {CONVERT}")
    return tuple(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)


def _pictures_below(folder: Path) -> Iterator[Path]:
    """Yield the images of a directory and its sub-directories, including those of formats that are not read."""
    for path in folder.rglob("*"):
        hidden = any(is_ignored(part) for part in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES | UNREAD_SUFFIXES and not hidden:
            yield path


def _item(row: Mapping[str, str], images: Path, gallery: Mapping[str, tuple[Path, ...]], where: str) -> ScoreItem:
    image = images / row["image"]
    if not image.is_file():
        raise ConfigError(f"{where}: {image} is no file")
    concept, known = row["concept"], [name for name in gallery if name]
    if concept:
        # The concept's own references, under any spelling of its name; never those of the root, which have no concept.
        spelled = {text_key(name): name for name in known}
        concept = concept if concept in known else spelled.get(text_key(concept), concept)
    else:
        concept = next((part for part in Path(row["image"]).parts[:-1] if part in gallery), "")
    references = gallery.get(concept, ())
    if gallery and not references:
        remedy = (
            f"no reference images of the concept {concept!r}; put them in a folder of that name, or name another"
            if concept
            else "names no concept, and no reference images lie in the directory itself; name one"
        )
        nearest = did_you_mean(concept, known) if known else ""
        raise ConfigError(f"{where}: {remedy} in the column 'concept'{nearest}")
    return ScoreItem(
        sample_id=row["image"],
        image=image,
        references=references,
        prompt=row["prompt"],
        class_noun=row["class_noun"],
        concept=concept,
        phrase=row["phrase"],
        subject=row["subject"],
        gallery=gallery,
    )


def score_folder(folder: Folder, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """Return scores with the columns image, concept, metric, value, note and details.

    Raises ConfigError for a metric that needs references or class nouns if they are missing.
    """
    for metric in metrics.values():
        if metric.uses_references and not all(item.references for item in folder.items):
            raise ConfigError(f"metrics.{metric.name}: needs --references, or choose other metrics=[...]")
        metric.check(folder.concepts)
    tables = [_scores(folder.items, metric) for metric in metrics.values()]
    return pd.concat(tables, ignore_index=True)


def _scores(items: Sequence[ScoreItem], metric: Metric) -> pd.DataFrame:
    scores: list[Score] = []
    with Progress(f"score {metric.title}", len(items), unit="image") as progress:
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            scores += score_sound(metric, chunk, [_fault(item) for item in chunk])
            progress.update(len(chunk))
    return pd.DataFrame(
        {
            "image": [item.sample_id for item in items],
            "concept": [item.concept for item in items],
            "metric": metric.name,
            "value": [score.value for score in scores],
            "note": [score.note for score in scores],
            "details": [json_text(score.details) if score.details else "" for score in scores],
        }
    )


def _fault(item: ScoreItem) -> str:
    """Return why an image can't be scored; empty for a sound image."""
    try:
        recorded_sample(item.image)
    except ImageError as error:
        return str(error)
    return ""


def _metrics(config: DictConfig) -> tuple[dict[str, Metric], dict[str, str]]:
    """Return the metrics of a configuration, and the digests of how they are computed."""
    try:
        nodes = OmegaConf.to_container(config.metrics, resolve=True, throw_on_missing=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(nodes, dict)
    metrics = {str(name): build(node, f"metrics.{name!s}") for name, node in nodes.items()}
    reduction = config.protocol.reduction.value
    return metrics, {str(name): protocol_digest([node, reduction], config.cache_dir) for name, node in nodes.items()}


def summarise(
    scores: pd.DataFrame, metrics: Mapping[str, Metric], digests: Mapping[str, str], reduction: Reduction
) -> pd.DataFrame:
    """Return one row per metric.

    Its columns are the mean by `reduction`, the 95% interval over concepts, the numbers of images and concepts, the
    number of scores with a note, and the protocol's digest.
    """
    table = scores.assign(method="images", task=Task.GENERATION.value)
    of_concepts, bounds = concept_means(table), {name: metric.bounds for name, metric in metrics.items()}
    means, intervals = MEANS[reduction](of_concepts), score_intervals(of_concepts, reduction, bounds)
    rows = []
    for name, metric in metrics.items():
        own = table[table["metric"] == name]
        cell = ("images", Task.GENERATION.value, name)
        low, high = intervals[cell] or (None, None)
        rows.append(
            {
                "metric": metric.title,
                "mean": means[cell].value,
                "low": low,
                "high": high,
                "images": means[cell].n,
                "concepts": own["concept"].nunique(),
                "noted": int((own["note"] != "").sum()),
                "protocol": digests[name],
            }
        )
    return pd.DataFrame(rows)
