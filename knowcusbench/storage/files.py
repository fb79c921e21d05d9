"""Files that appear whole or not at all, also after a kill or a power cut: on this machine, or wherever fsspec reaches.

A place is a `Path`; `location` makes one of a URL ("s3://bucket/runs") that is used in the same way.
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
"""What a file begins with that Git LFS has not fetched yet."""


def local_path(text: str) -> Path:
    """Return a path as users write it: "~" stands for the home directory, also where no shell replaces it."""
    return Path(os.path.expanduser(text))


def location(text: str) -> Path:
    """The place that a path ("~" is the home directory) or an fsspec URL names. Raises ConfigError for a protocol that
    can't be used here."""
    protocol, separator, rest = text.partition("://")
    if not separator:
        return local_path(text)
    if protocol in ("file", "local"):
        return Path(rest)
    from upath import UPath

    try:
        # What other processes write must be seen.
        place = UPath(text, use_listings_cache=False)
        _ = place.fs
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{text}: can't be used as a place for files ({error})") from error
    # It has the methods of a Path, and does not derive from it.
    return cast(Path, place)


def is_remote(path: Path) -> bool:
    """Whether a place is not in this machine's file system."""
    return not isinstance(path, Path)


def filesystem(path: Path) -> tuple[Any, str]:
    """fsspec's file system of a remote place, and the place's name in it."""
    place = cast("UPath", path)
    return place.fs, place.path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends without an error.

    Works for a file and for a directory; a directory that already stands at `path` is kept, and the new one dropped
    (content-addressed stores: whoever was first wins). The parent directory is created. In a remote place every file
    appears whole; of a directory those nearest to its top come last, so that who finds these finds all.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            yield temporary
            _upload(temporary, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
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
    """Write `data` to `path`, replacing what is there, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def json_text(data: Any, *, indent: int | None = None) -> str:
    """Return JSON that every reader takes. Raises ValueError for NaN and infinity, which Python would write as such."""
    return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)


def create_exclusively(path: Path, data: bytes) -> bool:
    """Write `data` to `path` unless something is there; whether it was written. Of several processes that try at once,
    on any machine, one succeeds.

    Raises ConfigError for a remote file system that can't do this.
    """
    if not is_remote(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            temporary.write_bytes(data)
            return _linked(temporary, path, data)
        finally:
            temporary.unlink(missing_ok=True)
    system, name = filesystem(path)
    try:
        system.pipe_file(name, data, mode="create")
    except FileExistsError:
        return False
    except (NotImplementedError, ValueError) as error:
        raise ConfigError(
            f"{path}: this file system can't create a file only where there is none ({error}); keep the run on another"
        ) from error
    return True


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file that no other process writes. In a remote place the whole file is written again."""
    if is_remote(path):
        write_atomic(path, (path.read_bytes() if path.exists() else b"") + data)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as handle:
            handle.write(data)


def modified(path: Path) -> float:
    """When a file was last written, in seconds by the clock of its file system; 0.0 if it is not there."""
    return modified_in(path.parent).get(path.name, 0.0) if is_remote(path) else _modified(path)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def modified_in(directory: Path) -> dict[str, float]:
    """The files and folders in a directory by name, and when each was last written, as by `modified`; infinity where
    that is not known. Temporary files are left out. Nothing if the directory is not there."""
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
    """The time in what a file system says of a file; each calls it by its own name."""
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
    """The names in a directory, temporary files left out; none if it is not there."""
    if is_remote(directory):
        return list(modified_in(directory))
    try:
        return [name for name in os.listdir(directory) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove(path: Path) -> None:
    """Remove a file or a directory tree, if it is there."""
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


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove what writers of these files left beside them when they were killed. For paths that nobody else writes."""
    for folder, own in groupby(sorted(paths), key=lambda path: path.parent):
        starts = tuple(f".{path.name}." for path in own)
        if not is_remote(folder) and folder.is_dir():
            for name in os.listdir(folder):
                if name.startswith(starts) and name.endswith(".tmp"):
                    remove(folder / name)


def _linked(temporary: Path, path: Path, data: bytes) -> bool:
    """Whether `path` became another name of a file: that fails where something has the name, on network file systems
    too. Some file systems have no second names; there, the file is empty for a moment."""
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
        # What is not committed was never there.
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
