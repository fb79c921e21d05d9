"""Packing a run directory into a bundle."""

import hashlib
import importlib.metadata
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from knowcusbench.benchmark.types import Task
from knowcusbench.errors import BundleError
from knowcusbench.report.tables.csv_json import render_json
from knowcusbench.run.checks import recorded_weights
from knowcusbench.run.examples import example
from knowcusbench.run.identity import read_identity
from knowcusbench.run.plan import counts
from knowcusbench.run.results import Results
from knowcusbench.run.run import Run
from knowcusbench.share.manifest import (
    LEADERBOARD,
    MANIFEST,
    SCHEMA_VERSION,
    TABLES,
    Heading,
    Manifest,
    Part,
    is_safe,
)
from knowcusbench.storage.files import atomic_path

WHERE = ("source", "revision")
"""Keys of a backbone that name the source of its weights. The digest identifies the weights instead."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every file in a zip, fixed so that the same run gives the same bytes."""


def pack(run: Run, group: str = "", images: int = 4) -> dict[str, bytes]:
    """Return the parts of a run's bundle by name, the manifest first.

    Args:
        run: a run with scores.
        group: the group that made the results.
        images: number of concepts of which one sample by every method is included.

    The same run gives the same bytes. Paths of the home directory are cut to "~". Raises BundleError for a run without
    scores, and for labels that can't be file names on every system.
    """
    results = Results.of(run)
    inputs = results.report_input
    if inputs.scores.empty:
        raise BundleError(f"{run.store.root} has no scores to share; make some with `knowcusbench bench`")
    board = results.board
    parts = {
        **_tables(run, results),
        LEADERBOARD: render_json(board).encode(),
        **_records(run),
        **_images(run, images),
    }
    for name in parts:
        if not is_safe(name):
            raise BundleError(
                f"{run.store.root}: {name!r} can't be a file name on every system; choose another run.label="
            )
    identity = read_identity(run.store)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        group=group,
        run=inputs.run,
        knowcusbench=importlib.metadata.version("knowcusbench"),
        benchmark=identity["benchmark"],
        grid=identity["grid"],
        backbone={key: value for key, value in identity["backbone"].items() if key not in WHERE},
        weights=recorded_weights(run.store).get("backbone_weights"),
        concepts=inputs.concepts,
        planned={Task(task): count for task, count in counts(run.plan).items()},
        reduction=inputs.reduction,
        methods=dict(inputs.methods),
        metrics={
            name: Heading(
                title=m.title,
                tasks=tuple(sorted(m.tasks)),
                higher_is_better=m.higher_is_better,
                bounds=m.bounds if m.bounds.finite else None,
                decimals=m.decimals,
            )
            for name, m in inputs.metrics.items()
        },
        protocols=dict(board.protocols),
        parts={
            name: Part(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in sorted(parts.items())
        },
    )
    return {MANIFEST: manifest.model_dump_json(indent=2).encode(), **dict(sorted(parts.items()))}


def write_bundle(path: Path, parts: Mapping[str, bytes]) -> None:
    """Write the parts as a zip file, whole or not at all. Nothing is compressed: images and tables already are."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data)


def write_folder(directory: Path, parts: Mapping[str, bytes]) -> None:
    """Write the parts as files below `directory`, in which none of them may exist."""
    for name, data in parts.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _tables(run: Run, results: Results) -> dict[str, bytes]:
    phrases = [concept.knowledge[index].phrase for concept in run.concepts for index in range(len(concept.knowledge))]
    keys = [(concept.name, index) for concept in run.concepts for index in range(len(concept.knowledge))]
    phrase_of = dict(zip(keys, phrases, strict=True))
    scores, inputs = results.scores, results.report_input
    named = [phrase_of[key] for key in zip(scores["concept"], scores["knowledge"], strict=True)]
    tables = {
        "scores.parquet": scores.assign(phrase=named),
        "floors.parquet": inputs.floors,
        "ceilings.parquet": inputs.ceilings,
        "costs.parquet": inputs.costs,
    }
    return {name: table_bytes(name, table) for name, table in tables.items()}


def table_bytes(name: str, table: pd.DataFrame) -> bytes:
    """Return the Parquet file of one of `TABLES`."""
    schema = TABLES[name]
    plain = table[schema.names].astype({field.name: "str" for field in schema if field.type == pa.string()})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(plain, schema, preserve_index=False).replace_schema_metadata(), buffer)
    return buffer.getvalue()


def _records(run: Run) -> dict[str, bytes]:
    """Return the run's configurations and provenance, without the home directory's name."""
    root = run.store.root
    files = [run.store.identity, *map(run.store.config, run.store.labels()), *sorted((root / "provenance").glob("*"))]
    home = str(Path.home()).encode()

    def without_home(data: bytes) -> bytes:
        return data if home == b"/" else data.replace(home, b"~")

    return {path.relative_to(root).as_posix(): without_home(path.read_bytes()) for path in files}


def _images(run: Run, count: int) -> dict[str, bytes]:
    found = {}
    for concept in run.concepts[:count]:
        sample = example(run, concept)
        for label in run.methods:
            path = run.store.image(label, concept.name, sample["id"])
            if path.exists():
                found[f"images/{label}/{concept.name}.png"] = path.read_bytes()
    return found
