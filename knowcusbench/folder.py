"""Scoring a folder of images that any other program made: `knowcusbench score --images DIR --prompts FILE`.

So a published number can be computed again under each protocol.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from knowcusbench.benchmark.layout import IMAGE_SUFFIXES
from knowcusbench.benchmark.types import Concept
from knowcusbench.config import did_you_mean
from knowcusbench.errors import ConfigError
from knowcusbench.metrics.base import Metric, Score, ScoreItem

CHUNK = 512

COLUMNS = {
    "image": ("image", "file", "file_name", "filename", "path"),
    "prompt": ("prompt", "text", "caption"),
    "concept": ("concept", "subject_name"),
    "class_noun": ("class_noun", "class", "class_name"),
    "phrase": ("phrase", "knowledge"),
    "subject": ("subject",),
}
"""The columns of a prompts file, with the names that are understood. The first two must be there."""


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
    with tqdm(total=len(items), desc=f"score {metric.title}", unit="image", disable=None) as progress:
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
