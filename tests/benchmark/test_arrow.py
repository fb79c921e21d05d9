"""A benchmark survives conversion to `datasets` and back without loss."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from knowcusbench.benchmark import export_dataset, import_dataset, load_benchmark
from knowcusbench.errors import BenchmarkError


def image_files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in ("concept_image", "visual_ckpt")
        for path in (root / folder).rglob("*")
        if path.is_file() and path.name != "dataset.json"
    }


def test_the_round_trip_of_the_sample_benchmark_is_exact(sample_benchmark: Path, tmp_path: Path) -> None:
    benchmark = load_benchmark(sample_benchmark)

    export_dataset(benchmark, tmp_path / "parquet")
    imported = import_dataset(tmp_path / "parquet", tmp_path / "release")

    assert imported.digest == benchmark.digest
    assert [concept.name for concept in imported.concepts] == [c.name for c in benchmark.concepts]
    files = image_files(tmp_path / "release")
    assert len(files) == 22
    assert files == image_files(sample_benchmark)
    assert load_benchmark(tmp_path / "release") == imported


def test_visual_checkpoints_and_odd_names_survive(release: Any, tmp_path: Path) -> None:
    folder = release.root / "visual_ckpt" / "dog" / "deeper"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(range(256)))
    (folder / ".cache").write_bytes(b"hidden")
    (release.folder("cat") / "00.png").rename(release.folder("cat") / "Кот 1.PNG")
    root = release.write()

    export_dataset(load_benchmark(root), tmp_path / "parquet")
    imported = import_dataset(tmp_path / "parquet", tmp_path / "copy")

    expected = image_files(root)
    del expected["visual_ckpt/dog/deeper/.cache"]
    assert image_files(tmp_path / "copy") == expected
    assert [concept.visual_checkpoint for concept in imported.concepts] == [
        tmp_path / "copy" / "visual_ckpt" / "dog",
        None,
    ]


def test_the_export_opens_with_datasets(sample_benchmark: Path, tmp_path: Path) -> None:
    benchmark = load_benchmark(sample_benchmark)
    export_dataset(benchmark, tmp_path / "parquet")

    loaded = datasets.load_dataset(str(tmp_path / "parquet"), split="test", cache_dir=str(tmp_path / "cache"))

    assert loaded.features["images"] == datasets.List(datasets.Image())
    assert loaded["concept"][:] == [concept.name for concept in benchmark.concepts]
    first = loaded[0]
    assert first["images"][0].size == (256, 256)
    assert first["knowledge"][0]["question"] == benchmark.concepts[0].knowledge[0].question
    stored = loaded.cast_column("images", datasets.List(datasets.Image(decode=False)))[0]["images"]
    assert [image["bytes"] for image in stored] == [path.read_bytes() for path in benchmark.concepts[0].images]


def test_an_existing_directory_is_never_touched(release: Any, tmp_path: Path) -> None:
    benchmark = load_benchmark(release.write())
    target = tmp_path / "target"
    target.mkdir()

    with pytest.raises(BenchmarkError, match="target: exists already"):
        export_dataset(benchmark, target)
    with pytest.raises(BenchmarkError, match="target: exists already"):
        import_dataset(tmp_path, target)

    assert list(target.iterdir()) == []


def rewrite(path: Path, change: Any) -> None:
    """Change the one row in a Parquet file."""
    table = pq.read_table(path)
    (row,) = table.to_pylist()
    change(row)
    pq.write_table(pa.Table.from_pylist([row], schema=table.schema), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(concept="../up"), "'../up' can't be the name"),
        (lambda row: row["images"][0].update(path="../../evil.png"), "'../../evil.png' can't be the name"),
        (lambda row: row["visual_checkpoint"].append({"path": "/etc/x", "bytes": b""}), "'/' can't be"),
        (lambda row: row.update(prompts=[]), "parquet: concept_image/dataset.json: dog: no prompts"),
        (lambda row: row.update(concept="cat"), "duplicate concept 'cat'"),
    ],
)
def test_a_bad_data_set_is_refused_and_leaves_nothing(release: Any, tmp_path: Path, change: Any, message: str) -> None:
    export_dataset(load_benchmark(release.write()), tmp_path / "parquet")
    rewrite(tmp_path / "parquet" / "data" / "test-00000-of-00002.parquet", change)
    before = sorted(path.name for path in tmp_path.iterdir())

    with pytest.raises(BenchmarkError) as caught:
        import_dataset(tmp_path / "parquet", tmp_path / "copy")

    assert message in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="neither a release directory nor a data set"):
        import_dataset(tmp_path, tmp_path / "copy")

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(BenchmarkError, match=r"a\.parquet: not a file of a benchmark data set"):
        import_dataset(tmp_path, tmp_path / "copy")

    pq.write_table(pa.table({"text": ["hello"]}), tmp_path / "data" / "a.parquet")
    with pytest.raises(BenchmarkError, match=r"a\.parquet: not a file of a benchmark data set"):
        import_dataset(tmp_path, tmp_path / "copy")
