"""Reading a bundle of unknown origin into checked tables.

Nothing is unpacked and nothing is trusted: names, sizes, digests, columns and numbers are checked, samples' ids against
their content, and the leaderboard against the scores. Whether the scores belong to the images can't be checked.
"""

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.analysis.types import Leaderboard, MetricHeading, ReportInput, RowKind
from knowcusbench.errors import BundleError, RunError, first_line
from knowcusbench.report.tables.csv_json import render_json
from knowcusbench.share.manifest import LEADERBOARD, MANIFEST, SCHEMA_VERSION, TABLES, Manifest, is_safe
from knowcusbench.storage.digests import content_id

MAX_MANIFEST = 16 * 2**20
"""Largest size of a manifest in bytes."""

MAX_CELLS = 200_000_000
"""Largest number of rows times columns of a table. The paper's grid by six methods and eleven metrics has 160 million
cells; a Parquet file of some kilobytes can declare any number."""

OWN_ROWS = {kind.value for kind in RowKind} - {RowKind.PUBLISHED.value}
"""Kinds of leaderboard rows that follow from the scores; published rows come with the program."""


@dataclass(frozen=True)
class Files:
    """The files of a bundle: their sizes by name, and a function that reads one."""

    sizes: Mapping[str, int]
    read: Callable[[str], bytes]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The checked results of a run.

    Attributes:
        path: the file or directory they were read from.
        manifest: the bundle's description.
        tables: the tables by name, with the columns of `TABLES`.
    """

    path: Path
    manifest: Manifest
    tables: Mapping[str, pd.DataFrame]

    @property
    def group(self) -> str:
        """The group that made the results; the file's name if the manifest names none."""
        return self.manifest.group or self.path.stem

    @property
    def scores(self) -> pd.DataFrame:
        """The scores, one row per method, sample and metric."""
        return self.tables["scores.parquet"]

    def report_input(self) -> ReportInput:
        """Return the input of a leaderboard of this bundle alone."""
        manifest = self.manifest
        return ReportInput(
            run=manifest.run,
            methods=manifest.methods,
            metrics={name: MetricHeading.of(heading) for name, heading in manifest.metrics.items()},
            concepts=manifest.concepts,
            scores=self.scores.astype({"method": "category", "metric": "category"}),
            expected=pd.DataFrame(
                [(label, task.value, count) for label in manifest.methods for task, count in manifest.planned.items()],
                columns=["method", "task", "planned"],
            ),
            costs=self.tables["costs.parquet"],
            ceilings=self.tables["ceilings.parquet"],
            floors=self.tables["floors.parquet"],
            published=load_published(PublishedTable.MAIN),
            reduction=manifest.reduction,
        )


def read_bundle(path: Path) -> Bundle:
    """Read a bundle, a zip file or a directory, and check everything in it.

    Raises BundleError, naming file and part, for any fault.
    """
    with _opened(path) as files:
        manifest = _manifest(path, files)
        _check_names(path, files, manifest)
        for name in manifest.parts:
            _part(path, files, manifest, name)
        tables = {name: _table(path, name, _part(path, files, manifest, name)) for name in TABLES}
        bundle = Bundle(path=path, manifest=manifest, tables=tables)
        _check_scores(bundle)
        try:
            board = build_leaderboard(bundle.report_input())
        except RunError as error:
            raise BundleError(f"{path}: {error}") from error
        _check_leaderboard(path, board, _part(path, files, manifest, LEADERBOARD))
    return bundle


@contextmanager
def _opened(path: Path) -> Iterator[Files]:
    try:
        if path.is_dir():
            there = [file for file in path.rglob("*") if file.is_file()]
            sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in there}
            hidden = {name for name in sizes if any(part.startswith(".") for part in Path(name).parts)}
            yield Files({name: size for name, size in sizes.items() if name not in hidden}, _reader(path))
        else:
            with zipfile.ZipFile(path) as archive:
                yield Files(_zipped(path, archive), archive.read)
    except zipfile.BadZipFile as error:
        raise BundleError(f"{path}: is truncated, damaged or no bundle ({error})") from error
    except OSError as error:
        raise BundleError(f"{path}: can't be read ({error.strerror or error})") from error


def _reader(directory: Path) -> Callable[[str], bytes]:
    return lambda name: (directory / name).read_bytes()


def _zipped(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Return sizes by name. Uncompressed parts can't be larger than the file, so that no declared size has to be
    trusted."""
    entries = archive.infolist()
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise BundleError(f"{path}: {entry.filename!r} is compressed or encrypted; a bundle's parts are stored")
    sizes = {entry.filename: entry.file_size for entry in entries}
    if len(sizes) < len(entries):
        raise BundleError(f"{path}: has a part twice")
    if sum(sizes.values()) > path.stat().st_size:
        raise BundleError(f"{path}: its parts claim to be larger than the file")
    return sizes


def _manifest(path: Path, files: Files) -> Manifest:
    if MANIFEST not in files.sizes:
        raise BundleError(f"{path}: has no {MANIFEST}; is it a bundle of `knowcusbench export`?")
    if files.sizes[MANIFEST] > MAX_MANIFEST:
        raise BundleError(f"{path}: {MANIFEST} is larger than {MAX_MANIFEST:,} bytes")
    data = _json(path, MANIFEST, files.read(MANIFEST))
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: has schema version {version!r}, this knowcusbench reads {SCHEMA_VERSION}; "
            "use the version that wrote it, or export the run again"
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise BundleError(f"{path}: {MANIFEST}, {where}: {problem['msg']}") from None


def _json(path: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {name} is damaged ({error})") from error
    if not isinstance(document, dict):
        raise BundleError(f"{path}: {name} is damaged (expected an object)")
    return document


def _check_names(path: Path, files: Files, manifest: Manifest) -> None:
    for name in {*files.sizes, *manifest.parts}:
        if not is_safe(name):
            raise BundleError(f"{path}: {name!r} is not a name that stays inside the bundle")
    for name in {*TABLES, LEADERBOARD} - set(manifest.parts):
        raise BundleError(f"{path}: {MANIFEST} names no {name}")
    for name in sorted(set(manifest.parts) - set(files.sizes)):
        raise BundleError(f"{path}: {name} is missing")
    for name in sorted(set(files.sizes) - set(manifest.parts) - {MANIFEST}):
        raise BundleError(f"{path}: {name} is not in {MANIFEST}")
    for name, part in manifest.parts.items():
        if files.sizes[name] != part.bytes:
            raise BundleError(f"{path}: {name} has {files.sizes[name]:,} bytes, {MANIFEST} says {part.bytes:,}")


def _part(path: Path, files: Files, manifest: Manifest, name: str) -> bytes:
    data = files.read(name)
    if hashlib.sha256(data).hexdigest() != manifest.parts[name].sha256:
        raise BundleError(f"{path}: {name} was altered (its digest is not the one in {MANIFEST})")
    return data


def _table(path: Path, name: str, data: bytes) -> pd.DataFrame:
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        if file.metadata.num_rows * len(TABLES[name]) > MAX_CELLS:
            raise BundleError(f"{path}: {name} has {file.metadata.num_rows:,} rows, more than can be read")
        if not file.schema_arrow.remove_metadata().equals(TABLES[name]):
            raise BundleError(f"{path}: {name} has other columns than a bundle's: {', '.join(file.schema_arrow.names)}")
        table = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BundleError(f"{path}: {name} is damaged ({first_line(error)})") from error
    for field in table.schema:
        if table[field.name].null_count and field.type != pa.float64():
            raise BundleError(f"{path}: {name} has gaps in the column {field.name}")
    frame: pd.DataFrame = table.to_pandas()
    if np.isinf(frame.select_dtypes("float64").to_numpy()).any():
        raise BundleError(f"{path}: {name} has infinite numbers")
    return frame


def _check_scores(bundle: Bundle) -> None:
    """Check the scores against the manifest and themselves.

    Their methods, metrics and protocols are those of the manifest, a sample has one score by each, and a sample's id is
    the hash of its content.
    """
    path, manifest, scores = bundle.path, bundle.manifest, bundle.scores
    tasks = [task.value for task in manifest.planned]
    known: dict[str, Collection[str]] = {"method": manifest.methods, "metric": manifest.metrics, "task": tasks}
    for column, names in known.items():
        for value in scores[column].unique():
            if value not in names:
                raise BundleError(f"{path}: scores.parquet has the {column} {value!r}, {MANIFEST} does not")
    for metric, protocol in scores[["metric", "protocol"]].drop_duplicates().itertuples(index=False):
        said = manifest.protocols.get(metric)
        if said != protocol:
            raise BundleError(f"{path}: scores of {metric} are of protocol {protocol!r}, {MANIFEST} says {said!r}")
    repeated = scores[scores.duplicated(["sample_id", "method", "metric"])]
    if len(repeated):
        one = repeated.iloc[0]
        raise BundleError(f"{path}: sample {one['sample_id']} has more than one {one['metric']} of {one['method']}")
    content = ["sample_id", "concept", "task", "phrase", "prompt", "seed"]
    for identity, *prefix, seed in scores[content].drop_duplicates().itertuples(index=False):
        if content_id(json.dumps(prefix), seed) != identity:
            raise BundleError(f"{path}: the id of sample {identity} is not the hash of its content")


def _check_leaderboard(path: Path, board: Leaderboard, data: bytes) -> None:
    """Check that the bundle's leaderboard has the numbers that follow from its scores.

    Intervals are not compared: they come from random draws and are always computed again.
    """
    said, found = _cells(_json(path, LEADERBOARD, data)), _cells(json.loads(render_json(board)))
    if said is None or found is None or said.keys() != found.keys():
        raise BundleError(f"{path}: {LEADERBOARD} has other rows or columns than its scores")
    for (label, column), (value, *counted) in found.items():
        claimed, *count = said[label, column]
        if counted != count or not _same(value, claimed):
            raise BundleError(
                f"{path}: {LEADERBOARD} says {_shown(claimed, count)} for {label}, {column}; "
                f"its scores give {_shown(value, counted)}"
            )


def _shown(value: Any, count: list[Any]) -> str:
    return f"{value} over {count[0]} of {count[1]}"


def _cells(document: Mapping[str, Any]) -> dict[tuple[str, str], tuple[Any, Any, Any]] | None:
    """Return (value, n, expected) by label and column of a rendered leaderboard; None for any other document."""
    try:
        return {
            (str(row["label"]), str(column)): (cell["value"], cell["n"], cell["expected"])
            for row in document["rows"]
            if row["kind"] in OWN_ROWS
            for column, cell in row["cells"].items()
        }
    except (KeyError, TypeError, AttributeError):
        return None


def _same(value: float | None, claimed: Any) -> bool:
    """Return whether two values are equal up to the last digits, which depend on the machine."""
    if value is None or not isinstance(claimed, int | float):
        return value is claimed
    return math.isclose(value, claimed, rel_tol=1e-9, abs_tol=1e-12)
