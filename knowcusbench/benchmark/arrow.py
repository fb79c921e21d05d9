"""A benchmark as a `datasets` data set in Parquet files, and back, without loss.

A data set has one row and one file per concept (`data/test-00000-of-00035.parquet`), so that only one concept is in
memory at a time. `datasets.load_dataset(DIRECTORY)` opens it, images and all. Images keep their original bytes and file
names, and the release's visual checkpoints are carried along.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from knowcusbench.benchmark.findings import Findings
from knowcusbench.benchmark.layout import (
    CHECKPOINT_FOLDER,
    DATASET_FILE,
    IMAGE_FOLDER,
    KNOWLEDGE_FOLDER,
)
from knowcusbench.benchmark.release import read_release, sound
from knowcusbench.benchmark.tree import ReleaseTree
from knowcusbench.benchmark.types import Benchmark, Concept
from knowcusbench.errors import BenchmarkError, first_line
from knowcusbench.storage.files import atomic_path
from knowcusbench.storage.names import is_plain_name
from knowcusbench.storage.tables import write_json

if TYPE_CHECKING:
    import pyarrow as pa


def export_dataset(benchmark: Benchmark, directory: Path) -> None:
    """Write a benchmark as Parquet files with image features into a new directory.

    Raises BenchmarkError if `directory` exists.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _refuse_existing(directory)
    schema = _schema()
    count = len(benchmark.concepts)
    with atomic_path(directory) as temporary:
        (temporary / "data").mkdir(parents=True)
        for index, concept in enumerate(benchmark.concepts):
            table = pa.Table.from_pylist([_row(benchmark, concept)], schema=schema)
            pq.write_table(table, temporary / "data" / f"test-{index:05d}-of-{count:05d}.parquet")


def import_dataset(directory: Path, root: Path) -> Benchmark:
    """Write a data set made by `export_dataset` as a release directory with our canonical keys, and read it.

    Raises BenchmarkError if `root` exists, if `directory` is not such a data set, or if its benchmark has a fault; then
    nothing is left behind.
    """
    _refuse_existing(root)
    with atomic_path(root) as temporary:
        entries = [_write_concept(row, temporary) for row in _rows(directory)]
        write_json(temporary / DATASET_FILE, entries)
        sound(read_release(temporary), directory)
    return sound(read_release(root), root)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise BenchmarkError(f"{path}: exists already; name a new directory")


def _schema() -> pa.Schema:
    """Return the Arrow schema of a row, with the image features in its metadata."""
    # The import takes most of a second, which every command would pay.
    from datasets import Features, Image, List, Value

    text = Value("string")
    # A checkpoint can be larger than the 2 GB that a plain binary column holds.
    file = {"path": text, "bytes": Value("large_binary")}
    item = {
        "phrase": text,
        "question": text,
        "answer": text,
        "aspect": text,
        "rephrasings": List(text),
    }
    features = Features(
        {
            "concept": text,
            "class": text,
            "images": List(Image()),
            "knowledge": List(item),
            "prompts": List({"template": text, "aspect": text}),
            "visual_checkpoint": List(file),
        }
    )
    schema: pa.Schema = features.arrow_schema
    return schema


def _row(benchmark: Benchmark, concept: Concept) -> dict[str, Any]:
    return {
        "concept": concept.name,
        "class": concept.class_noun,
        "images": [{"path": path.name, "bytes": path.read_bytes()} for path in concept.images],
        "knowledge": [asdict(item) for item in concept.knowledge],
        "prompts": [asdict(prompt) for prompt in concept.prompts],
        "visual_checkpoint": list(_checkpoint_files(benchmark.root, concept.visual_checkpoint)),
    }


def _checkpoint_files(root: Path, folder: Path | None) -> Iterator[dict[str, Any]]:
    if folder is not None:
        for path in ReleaseTree(root, Findings()).files_below(folder):
            yield {"path": path.relative_to(folder).as_posix(), "bytes": path.read_bytes()}


def _rows(directory: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted((directory / "data").glob("*.parquet"))
    if not files:
        raise BenchmarkError(f"{directory}: neither a release directory nor a data set: no data/*.parquet")
    schema = _schema()
    for file in files:
        try:
            # Read without `datasets`, which would copy everything into its cache first.
            table = pq.read_table(file).select(schema.names).cast(schema)
        except (pa.ArrowException, KeyError, OSError) as error:
            raise BenchmarkError(f"{file}: not a file of a benchmark data set: {first_line(error)}") from error
        yield from table.to_pylist()


def _write_concept(row: dict[str, Any], root: Path) -> dict[str, Any]:
    """Write a concept's files and return its entry in `dataset.json`."""
    name = row["concept"]
    for image in row["images"]:
        _write_file(root, PurePosixPath(IMAGE_FOLDER, _plain(name), _plain(image["path"])), image["bytes"])
    for file in row["visual_checkpoint"]:
        parts = map(_plain, PurePosixPath(file["path"]).parts)
        _write_file(root, PurePosixPath(CHECKPOINT_FOLDER, name, *parts), file["bytes"])
    knowledge = [
        {
            "knowledge": item["phrase"] or None,
            "question": item["question"],
            "answer": item["answer"],
            "aspect": item["aspect"],
            "rephrase": item["rephrasings"],
        }
        for item in row["knowledge"]
    ]
    write_json(root / KNOWLEDGE_FOLDER / f"{name}.json", knowledge)
    prompts = [{"text": prompt["template"], "aspect": prompt["aspect"]} for prompt in row["prompts"]]
    return {"concept": name, "class": row["class"], "prompts": prompts}


def _plain(name: str) -> str:
    """Return a file or folder name from a data set; refuse one that leads out of the target directory."""
    if not is_plain_name(name):
        raise BenchmarkError(f"data set: {name!r} can't be the name of a file or folder")
    return name


def _write_file(root: Path, relative: PurePosixPath, data: bytes) -> None:
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
