import os

import pytest

from knowcusbench.files import atomic_path, remove, write_atomic


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "scores.parquet"
    write_atomic(target, b"old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_bytes(bytes([1 // (len(b"half") - 4)]))
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["scores.parquet"]


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
