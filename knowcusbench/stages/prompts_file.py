"""The file that says what images show: CSV, JSON or JSON lines, read exactly as written or refused with the row."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from knowcusbench.benchmark.records import read_template
from knowcusbench.benchmark.tree import parse_json
from knowcusbench.errors import ConfigError
from knowcusbench.storage.names import text_key

COLUMNS = {
    "image": ("image", "file", "file_name", "filename", "path"),
    "prompt": ("prompt", "text", "caption"),
    "concept": ("concept", "subject_name"),
    "class_noun": ("class_noun", "class", "class_name"),
    "phrase": ("phrase", "knowledge"),
    "subject": ("subject",),
}
"""Columns of a prompts file, with their accepted names. The first two are required."""


def read_prompts(path: Path) -> list[dict[str, str]]:
    """Return the rows of a prompts file with the names of `COLUMNS`; a column without a value is "".

    A prompt names the concept as in a benchmark (`read_template`), or not at all.

    Raises ConfigError, naming the file and the row, for a value that is no text, for a row with more or fewer fields
    than the header, and for a prompt that is blank or names the concept twice.
    """
    readers = {".csv": _csv, ".json": _json, ".jsonl": _json_lines}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ConfigError(f"--prompts: {path}: expected .csv, .json or .jsonl")
    try:
        return [_row(record, f"{path}, row {number}") for number, record in enumerate(readers[suffix](path), 1)]
    except OSError as error:
        raise ConfigError(f"--prompts: {path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--prompts: {path}: not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}"
        ) from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise ConfigError(f"--prompts: {path}: can't be read ({error})") from error


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    # Line breaks inside quotes belong to the field, so the reader itself must split the lines.
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = (row for row in csv.reader(file, strict=True) if row)
        header = next(rows, [])
        for name in header:
            if header.count(name) > 1:
                raise ValueError(f"two columns {name!r}")
        for number, row in enumerate(rows, 1):
            if len(row) != len(header):
                remedy = "put a text with commas in quotes" if len(row) > len(header) else "give every column a value"
                raise ConfigError(
                    f"{path}, row {number}: has {len(row)} fields, and the header {len(header)}; {remedy}"
                )
            yield {name: value or None for name, value in zip(header, row, strict=True)}


def _json(path: Path) -> Iterator[dict[str, Any]]:
    data = parse_json(path.read_bytes())
    if isinstance(data, dict):
        for number, (image, content) in enumerate(data.items(), 1):
            own = content if isinstance(content, dict) else {"prompt": content}
            for name in COLUMNS["image"]:
                if own.get(name, image) != image:
                    raise ConfigError(f"{path}, row {number}: {image!r} has the {name} {own[name]!r} too")
            yield {**{name: value for name, value in own.items() if name not in COLUMNS["image"]}, "image": image}
    elif isinstance(data, list):
        yield from data
    else:
        raise ValueError(f"expected a list of objects or an object of prompts by image, found {data!r}")


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    # Split at line feeds only: JSON text may contain other characters that end lines elsewhere.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                yield parse_json(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error}") from error


def _row(record: Any, where: str) -> dict[str, str]:
    if not isinstance(record, Mapping):
        raise ConfigError(f"{where}: expected an object for each image, found {record!r}")
    row = {}
    for column, names in COLUMNS.items():
        name = next((name for name in names if record.get(name) is not None), None)
        if name is None and column in ("image", "prompt"):
            raise ConfigError(
                f"{where}: no {column!r} (or {', '.join(map(repr, names[1:]))}); it has "
                f"{', '.join(map(repr, record)) or 'nothing'}"
            )
        row[column] = "" if name is None else _text(record[name], column, f"{where}: {name}")
    try:
        row["prompt"] = read_template(row["prompt"], row["class_noun"], required=False)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    return row


def _text(value: Any, column: str, where: str) -> str:
    # Concept directories may be numbered; `True` is an int in Python.
    if column == "concept" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ConfigError(f"{where}: expected a text, found {json.dumps(value, ensure_ascii=False)}")
    if not text_key(value):
        raise ConfigError(f"{where}: is blank")
    return value if column == "image" else value.strip()
