"""Scoring a folder of images that any other program made: `knowcusbench score --images DIR --prompts FILE`.

So a published number can be computed again under each protocol.
"""

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from knowcusbench.benchmark.layout import IMAGE_SUFFIXES
from knowcusbench.benchmark.types import Concept, Task
from knowcusbench.commands import compose_config, explain
from knowcusbench.config import build, did_you_mean
from knowcusbench.errors import ConfigError
from knowcusbench.files import write_atomic
from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.metrics.protocol import Reduction
from knowcusbench.progress import Progress
from knowcusbench.report.reduction import MEANS, concept_means, score_intervals
from knowcusbench.stages.prepare import protocol_digest
from knowcusbench.store import write_json, writing

CHUNK = 512

OPTIONS = ("--images", "--prompts", "--references", "--output")

DEFAULTS = ("encoders=published", "benchmark=directory", "benchmark.path=.")
"""Overrides unless others are given: the images of other programs are of the real world."""

COLUMNS = {
    "image": ("image", "file", "file_name", "filename", "path"),
    "prompt": ("prompt", "text", "caption"),
    "concept": ("concept", "subject_name"),
    "class_noun": ("class_noun", "class", "class_name"),
    "phrase": ("phrase", "knowledge"),
    "subject": ("subject",),
}
"""The columns of a prompts file, with the names that are understood. The first two must be there."""


class Parser(argparse.ArgumentParser):
    """Its errors are a ConfigError."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}")


@dataclass(frozen=True)
class Folder:
    """Images with what is known of them.

    Attributes:
        items: one per row of the prompts file, in its order; `sample_id` is the image's path in the folder.
        left_out: how many images of the folder have no row.
    """

    items: tuple[ScoreItem, ...]
    left_out: int

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """The concepts with images, as far as metrics have to know them."""
        found = {item.concept: item for item in self.items}
        return tuple(Concept(name, item.class_noun, item.references, (), ()) for name, item in found.items())


def read_folder(images: Path, prompts: Path, references: Path | None) -> Folder:
    """The images of a folder.

    Args:
        images: a directory, with sub-directories or without.
        prompts: CSV, JSON (a list of objects, or an object of prompts by image) or JSON lines, with the columns of
            `COLUMNS`. An image is a path in `images`. Without the column "concept" the sub-directory that an image lies
            in is its concept, where `references` has one of that name.
        references: a directory of reference images, or with one sub-directory of them for each concept.

    Raises ConfigError, naming the file and what is wrong.
    """
    for option, path in (("--images", images), ("--references", references)):
        if path and not path.is_dir():
            raise ConfigError(f"{option}: {path} is no directory")
    table = _read_table(prompts)
    gallery = _references(references) if references else {}
    items = tuple(_item(row, images, gallery, f"{prompts}, row {row['row']}") for row in table)
    if not items:
        raise ConfigError(f"{prompts}: has no rows")
    repeated = pd.Series([item.sample_id for item in items]).loc[lambda names: names.duplicated()]
    if len(repeated):
        raise ConfigError(f"{prompts}: {repeated.iloc[0]} has more than one row")
    known = {item.image.resolve() for item in items}
    there = [path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
    return Folder(items, sum(path.resolve() not in known for path in there))


def _read_table(path: Path) -> list[dict[str, Any]]:
    """Rows with the names of `COLUMNS`, and their number as "row"."""
    records: list[dict[str, Any]]
    try:
        if path.suffix == ".csv":
            records = [dict(row) for row in csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())]
        elif path.suffix == ".jsonl":
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        elif path.suffix == ".json":
            data = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(data, dict):
                data = [{"image": name, "prompt": prompt} for name, prompt in data.items()]
            records = data
        else:
            raise ConfigError(f"--prompts: {path}: expected .csv, .json or .jsonl")
    except OSError as error:
        raise ConfigError(f"--prompts: {path}: can't be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"--prompts: {path}: can't be read ({error})") from error
    if not all(isinstance(record, dict) for record in records):
        raise ConfigError(f"--prompts: {path}: expected an object for each image")
    return [{"row": number, **_named(record, path, number)} for number, record in enumerate(records, 1)]


def _named(record: Mapping[str, Any], path: Path, number: int) -> dict[str, str]:
    row = {}
    for column, names in COLUMNS.items():
        value = next((record[name] for name in names if record.get(name) not in (None, "")), None)
        if value is None and column in ("image", "prompt"):
            raise ConfigError(
                f"{path}, row {number}: no {column!r} (or {', '.join(map(repr, names[1:]))}); it has "
                f"{', '.join(map(repr, record)) or 'nothing'}"
            )
        row[column] = str(value or "")
    return row


def _references(directory: Path) -> dict[str, tuple[Path, ...]]:
    """Reference images by concept; those that lie in the directory itself belong to the concept ""."""
    found: dict[str, tuple[Path, ...]] = {}
    for folder in (directory, *sorted(path for path in directory.iterdir() if path.is_dir())):
        files = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES))
        if files:
            found["" if folder == directory else folder.name] = files
    if not found:
        raise ConfigError(f"--references: {directory} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def _item(row: Mapping[str, str], images: Path, gallery: Mapping[str, tuple[Path, ...]], where: str) -> ScoreItem:
    image = images / row["image"]
    if not image.is_file():
        raise ConfigError(f"{where}: {image} is no file")
    concept = row["concept"]
    if not concept:
        concept = next((part for part in Path(row["image"]).parts[:-1] if part in gallery), "")
    references = gallery.get(concept, gallery.get("", ()))
    if gallery and not references:
        raise ConfigError(
            f"{where}: no reference images of the concept {concept!r}; name one in the column 'concept'"
            f"{did_you_mean(concept, gallery)}"
        )
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
    """Scores with the columns image, concept, metric, value, note and details.

    Raises ConfigError for a metric that needs references or class nouns where there are none.
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
            scores += metric.score(chunk)
            progress.update(len(chunk))
    return pd.DataFrame(
        {
            "image": [item.sample_id for item in items],
            "concept": [item.concept for item in items],
            "metric": metric.name,
            "value": [score.value for score in scores],
            "note": [score.note for score in scores],
            "details": [json.dumps(score.details) if score.details else "" for score in scores],
        }
    )


def main(arguments: Sequence[str]) -> None:
    """`knowcusbench score --images DIR --prompts FILE [--references DIR] [--output FILE] [overrides]`."""
    parser = Parser(prog="knowcusbench score", add_help=False)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--references", type=Path)
    parser.add_argument("--output", type=Path)
    options, overrides = parser.parse_known_args(arguments)
    if unknown := [word for word in overrides if word.startswith("-")]:
        raise ConfigError(f"{unknown[0]}: no such option{did_you_mean(unknown[0], OPTIONS)}")
    if options.output and options.output.suffix != ".csv":
        raise ConfigError(f"--output: {options.output}: expected a file name that ends in .csv")
    chosen = {word.partition("=")[0] for word in overrides}
    defaults = [word for word in DEFAULTS if word.partition("=")[0] not in chosen]
    config = compose_config([*defaults, *overrides])
    metrics, digests = _metrics(config)
    folder = read_folder(options.images, options.prompts, options.references)
    if folder.left_out:
        print(
            f"knowcusbench: {folder.left_out} images of {options.images} have no row in {options.prompts}; left out",
            file=sys.stderr,
        )
    scores = score_folder(folder, metrics)
    summary = summarise(scores, metrics, digests, config.protocol.reduction)
    if options.output:
        record = {
            "protocol": OmegaConf.to_container(config.protocol, enum_to_str=True),
            "scores": summary.to_dict("records"),
        }
        with writing():
            write_atomic(options.output, scores.to_csv(index=False).encode())
            write_json(options.output.with_suffix(".json"), record)
    print(f"Protocol {config.protocol.name} ({config.protocol.source}), {config.protocol.reduction.value} mean")
    print(summary.to_string(index=False, na_rep="–", float_format=lambda value: f"{value:.4f}"))
    if options.output:
        print(f"\nwritten to {options.output} and {options.output.with_suffix('.json')}")


def _metrics(config: DictConfig) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics of a configuration, and the digests of how they are computed."""
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
    """One row per metric: its mean by `reduction`, the 95% interval over concepts, how many images and concepts, how
    many scores carry a note, and the protocol's digest."""
    table = scores.assign(method="images", task=Task.GENERATION.value)
    of_concepts = concept_means(table)
    means, intervals = MEANS[reduction](of_concepts), score_intervals(of_concepts, reduction)
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
