"""Files that appear whole or not at all, even after a kill or a power cut, on this machine or wherever fsspec reaches.

Every location is a `Path`; `location` makes one from a URL ("s3://bucket/runs") that is used in the same way.
"""

import errno
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from knowcusbench.errors import ConfigError

if TYPE_CHECKING:
    from upath import UPath

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The first bytes of a file that Git LFS has not fetched yet."""


def local_path(text: str) -> Path:
    """Return the path that a user wrote, with "~" expanded to the home directory even where no shell does it."""
    return Path(os.path.expanduser(text))


def location(text: str) -> Path:
    """Return the path that `text` names: a local path ("~" is the home directory) or an fsspec URL.

    Raises ConfigError for a protocol that can't be used here.
    """
    protocol, separator, rest = text.partition("://")
    if not separator:
        return local_path(text)
    if protocol in ("file", "local"):
        return Path(rest)
    from upath import UPath

    try:
        # A cached listing would hide what other processes write.
        place = UPath(text, use_listings_cache=False)
        _ = place.fs
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{text}: can't be used as a directory ({error})") from error
    # UPath has the methods of Path but does not derive from it.
    return cast(Path, place)


def is_remote(path: Path) -> bool:
    """Return whether a path lies outside this machine's file system."""
    return not isinstance(path, Path)


def filesystem(path: Path) -> tuple[Any, str]:
    """Return the fsspec file system of a remote path, and the path's name in it."""
    place = cast("UPath", path)
    return place.fs, place.path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is moved to `path` when the block ends without an error.

    Works for files and directories, and creates the parent directory. A directory that already exists at `path` is kept
    and the new one dropped, as content-addressed stores want: the first writer wins. On remote storage each file is
    atomic, a directory is not: top-level files are uploaded last and serve as its completion marker.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            yield temporary
            _upload(temporary, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(path)
    try:
        yield temporary
        _flush(temporary)
        _rename(temporary, path)
    except BaseException as error:
        remove(temporary)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all, replacing an existing file."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def json_text(data: Any, *, indent: int | None = None) -> str:
    """Return JSON that every reader accepts.

    Raises ValueError for NaN and infinity, which Python would write although JSON has neither.
    """
    return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)


def create_exclusively(path: Path, data: bytes) -> bool:
    """Write `data` to `path` unless it exists; return whether it was written.

    If several processes try at once, on any machine, exactly one succeeds. Raises ConfigError for a remote file system
    that can't do this.
    """
    if not is_remote(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_path(path)
        try:
            temporary.write_bytes(data)
            return _link(temporary, path, data)
        finally:
            temporary.unlink(missing_ok=True)
    system, name = filesystem(path)
    try:
        system.pipe_file(name, data, mode="create")
    except FileExistsError:
        return False
    except (NotImplementedError, ValueError) as error:
        raise ConfigError(
            f"{path}: this file system can't create a file exclusively ({error}); keep the run on another one"
        ) from error
    return True


def append(path: Path, data: bytes) -> None:
    """Append `data` to a file that no other process writes. On remote storage the whole file is written again."""
    if is_remote(path):
        write_atomic(path, (path.read_bytes() if path.exists() else b"") + data)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as handle:
            handle.write(data)


def modified(path: Path) -> float:
    """Return the modification time of a file, in seconds by its file system's clock; 0.0 if it does not exist."""
    return modified_in(path.parent).get(path.name, 0.0) if is_remote(path) else _modified(path)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def modified_in(directory: Path) -> dict[str, float]:
    """Return the modification time, as by `modified`, of every file and folder in a directory, by name.

    A time that the file system does not give is infinity. Temporary files are left out. The result is empty if the
    directory does not exist.
    """
    try:
        if is_remote(directory):
            system, place = filesystem(directory)
            found = {entry["name"].rstrip("/").rpartition("/")[2]: _written(entry) for entry in system.ls(place, True)}
        else:
            with os.scandir(directory) as entries:
                found = {entry.name: _modified(Path(entry)) for entry in entries if entry.name[0] != "."}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: time for name, time in found.items() if not name.startswith(".")}


def _written(entry: dict[str, Any]) -> float:
    """Return the modification time in a file system's entry for a file; each file system has its own key for it."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = entry.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
        if isinstance(value, int | float):
            return float(value)
    return math.inf


def names_in(directory: Path) -> list[str]:
    """Return the names in a directory without temporary files; none if it does not exist."""
    if is_remote(directory):
        return list(modified_in(directory))
    try:
        return [name for name in os.listdir(directory) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove(path: Path) -> None:
    """Remove a file or a directory tree if it exists."""
    if is_remote(path):
        system, name = filesystem(path)
        if system.exists(name):
            system.rm(name, recursive=True)
    elif path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove the temporary files that killed writers of `paths` left. Only for paths that no other process writes."""
    for folder, own in groupby(sorted(paths), key=lambda path: path.parent):
        starts = tuple(f".{path.name}." for path in own)
        if not is_remote(folder) and folder.is_dir():
            for name in os.listdir(folder):
                if name.startswith(starts) and name.endswith(".tmp"):
                    remove(folder / name)


def _link(temporary: Path, path: Path, data: bytes) -> bool:
    """Hard-link `temporary` to `path`; return False if `path` exists.

    Linking is atomic even on NFS. Without hard-link support, fall back to O_EXCL, where readers may briefly see an
    empty file.
    """
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        try:
            with path.open("xb") as handle:
                handle.write(data)
        except FileExistsError:
            return False
    return True


def _upload(source: Path, target: Path) -> None:
    files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: (-len(file.parts), file)):
        system, name = filesystem(target if file == source else target / file.relative_to(source).as_posix())
        system.makedirs(system._parent(name), exist_ok=True)
        # The file appears only on commit; an interrupted upload leaves nothing.
        with file.open("rb") as data, system.open(name, "wb", autocommit=False) as copy:
            shutil.copyfileobj(data, copy, 1 << 22)
        copy.commit()


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
