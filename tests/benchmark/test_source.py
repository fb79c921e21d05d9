"""Benchmarks from a directory and from a hub cache, without a network."""

import hashlib
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from knowcusbench.benchmark import check_benchmark, load_benchmark, resolve_source
from knowcusbench.errors import BenchmarkError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, sample_benchmark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline cache with the sample benchmark as `someone/KnowCusBench`, tagged `v1`.

    It has the hub's layout: snapshots of links into `blobs`, and large files shared between repositories.
    """
    cache = tmp_path / "hub"
    repository = cache / "datasets--someone--KnowCusBench"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(COMMIT)
    (cache / "blobs").mkdir()
    for path in sample_benchmark.rglob("*"):
        if path.is_dir():
            continue
        etag = hashlib.sha256(path.read_bytes()).hexdigest()
        blob = repository / "blobs" / etag
        if path.suffix == ".jpg":
            shutil.copy(path, cache / "blobs" / etag)
            blob.symlink_to(Path("../../blobs") / etag)
        else:
            shutil.copy(path, blob)
        link = repository / "snapshots" / COMMIT / path.relative_to(sample_benchmark)
        link.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * len(path.relative_to(sample_benchmark).parts)
        link.symlink_to(f"../{up}blobs/{etag}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def test_a_local_directory_is_itself(sample_benchmark: Path) -> None:
    assert resolve_source(str(sample_benchmark), None, None) == sample_benchmark


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bench").mkdir()

    assert resolve_source("~/bench", None, None) == tmp_path / "bench"


@pytest.mark.parametrize("revision", [COMMIT, "v1"])
def test_a_cached_snapshot_is_found_offline(hub_cache: Path, sample_benchmark: Path, revision: str) -> None:
    root = resolve_source(None, "someone/KnowCusBench", revision)

    assert root == Path(
        snapshot_download("someone/KnowCusBench", repo_type="dataset", revision=revision, local_files_only=True)
    )
    assert load_benchmark(root).digest == load_benchmark(sample_benchmark).digest
    assert check_benchmark(root).faults == ()


def test_a_link_of_a_snapshot_to_elsewhere_in_the_cache_is_a_fault(hub_cache: Path) -> None:
    root = resolve_source(None, "someone/KnowCusBench", COMMIT)
    (hub_cache / "token.png").write_bytes(b"secret")
    (root / "concept_image" / "dog3" / "09.png").symlink_to(hub_cache / "token.png")

    assert check_benchmark(root).faults == ("concept_image/dog3/09.png: symbolic link out of the benchmark directory",)


def test_a_plain_copy_of_a_snapshot_says_how_it_is_copied(hub_cache: Path, tmp_path: Path) -> None:
    root = resolve_source(None, "someone/KnowCusBench", COMMIT)
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    faults = check_benchmark(tmp_path / "copy").faults
    assert (
        "concept_image/dataset.json: symbolic link out of the benchmark directory; copy a hub snapshot with `cp -rL`"
        in faults
    )
    shutil.copytree(root, tmp_path / "whole")
    assert check_benchmark(tmp_path / "whole").faults == ()


@pytest.mark.parametrize(
    ("path", "repo", "revision", "message"),
    [
        (None, None, None, "give either benchmark.path or benchmark.repo, found neither"),
        ("here", "someone/KnowCusBench", COMMIT, "found both"),
        ("no/such/folder", None, None, "benchmark.path=no/such/folder: no such directory"),
        (None, "someone/KnowCusBench", None, "benchmark.revision must be a commit or a tag, found none"),
        (None, "someone/KnowCusBench", "main", "found the branch 'main', which moves"),
        (None, "someone/KnowCusBench", "v9", "benchmark.repo=someone/KnowCusBench at v9 is not available"),
        (None, "someone/Other", COMMIT, "benchmark.repo=someone/Other at"),
        (None, "not//an id", COMMIT, "benchmark.repo=not//an id at"),
    ],
)
def test_a_source_that_cannot_be_had_is_one_line(
    hub_cache: Path, path: str | None, repo: str | None, revision: str | None, message: str
) -> None:
    with pytest.raises(BenchmarkError) as caught:
        resolve_source(path, repo, revision)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
