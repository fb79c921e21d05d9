import errno
import os
import time
from pathlib import Path

import pytest

from knowcusbench.errors import ConfigError
from knowcusbench.storage.files import (
    append,
    atomic_path,
    create_exclusively,
    filesystem,
    is_remote,
    local_path,
    location,
    modified,
    modified_in,
    names_in,
    remove,
    write_atomic,
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "scores.parquet"
    write_atomic(target, b"old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_bytes(bytes([1 // (len(b"half") - 4)]))
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["scores.parquet"]


def test_a_full_disk_is_one_with_a_name(tmp_path):
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "scores.parquet"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "scores.parquet")


def test_the_target_is_invisible_until_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "file"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"


def test_the_first_writer_of_a_directory_wins(tmp_path):
    target = tmp_path / "entry"
    for content in (b"first", b"second"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / "data").write_bytes(content)
    assert (target / "data").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["entry"]


def test_remove_does_not_follow_links(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    remove(inside)
    assert (outside / "kept").exists()
    assert not inside.exists()


@pytest.fixture
def remote(tmp_path):
    """A path in fsspec's in-memory file system, which has no real directories and no rename."""
    return location(f"memory://{tmp_path.name}")


def test_a_url_is_a_place_and_a_path_stays_one(tmp_path):
    assert location("results/runs") == Path("results/runs")
    assert location(f"file://{tmp_path}") == tmp_path
    assert location("~/runs") == local_path("~/runs") == Path.home() / "runs"
    assert location("a~b/~") == Path("a~b/~")
    assert is_remote(location("memory://bucket/runs"))
    with pytest.raises(ConfigError, match="gopher://x"):
        location("gopher://x")


def test_a_remote_file_appears_when_the_block_ends(remote):
    target = remote / "deep" / "file"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_bytes(bytes([1 // (len(b"half") - 4)]))
    assert target.read_bytes() == b"new"
    assert names_in(remote / "deep") == ["file"]


def test_the_top_of_a_remote_directory_comes_last(remote, monkeypatch):
    written = []
    system, _ = filesystem(remote)
    opened = type(system).open
    monkeypatch.setattr(
        type(system), "open", lambda self, path, *a, **k: written.append(path) or opened(self, path, *a, **k)
    )
    with atomic_path(remote / "entry") as temporary:
        (temporary / "transformer").mkdir(parents=True)
        (temporary / "adaptation.json").write_text("{}")
        (temporary / "transformer" / "weights").write_bytes(b"data")
    assert [path.rpartition("/")[2] for path in written] == ["weights", "adaptation.json"]
    assert (remote / "entry" / "transformer" / "weights").read_bytes() == b"data"


@pytest.mark.parametrize("place", ["local", "remote"])
def test_files_are_created_once_appended_to_listed_and_removed(place, remote, tmp_path):
    root = tmp_path if place == "local" else remote
    target = root / "folder" / "file"
    assert names_in(root / "folder") == []
    assert modified(target) == 0
    assert create_exclusively(target, b"first")
    assert not create_exclusively(target, b"second")
    append(target, b" and")
    append(target, b" more")
    assert target.read_bytes() == b"first and more"
    assert abs(modified(target) - time.time()) < 5
    assert modified_in(root / "folder") == {"file": modified(target)}
    remove(root / "folder")
    assert not target.exists()
    remove(root / "folder")


def test_where_there_are_no_second_names_a_file_is_still_created_once(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert create_exclusively(tmp_path / "file", b"first")
    assert not create_exclusively(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]
