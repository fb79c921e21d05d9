"""Files that appear whole or not at all, also after a kill or a power cut."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Works for a file and for a directory; a directory that already stands at `path` is kept, and the new one
    dropped (content-addressed stores: whoever was first wins). The parent directory is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        _flush(temporary)
        _rename(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing what is there, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def remove(path: Path) -> None:
    """Remove a file or a directory tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    for file in [path] if path.is_file() else [child for child in path.rglob("*") if child.is_file()]:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _rename(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except OSError:
        if not (temporary.is_dir() and path.is_dir()):
            raise
        remove(temporary)
