"""JSON, JSON-lines and Parquet files, written whole or not at all."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcusbench.errors import RunError
from knowcusbench.storage.files import append, atomic_path, create_exclusively, json_text, names_in, write_atomic

if TYPE_CHECKING:
    import pandas as pd

UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.ENOSPC, errno.EDQUOT}
"""Error numbers that mean that a user's directory can't be written."""


@contextmanager
def writing() -> Iterator[None]:
    """Turn an OSError about an unwritable path (a run directory, the cache) into a RunError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise RunError(
            f"can't write {error.filename} ({error.strerror or error}); free space or rights there, or "
            "choose another directory with run.root= or cache_dir="
        ) from error


def write_json(path: Path, data: Any) -> None:
    """Write an indented JSON file, replacing an existing one."""
    write_atomic(path, _json_bytes(data))


def create_json(path: Path, data: Mapping[str, Any]) -> bool:
    """Write a JSON file unless it exists; return whether it was written. Of several processes, one succeeds."""
    return create_exclusively(path, _json_bytes(data))


def _json_bytes(data: Any) -> bytes:
    return (json_text(data, indent=2) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file. Raises RunError if it is damaged."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); remove it, or use another run.name") from error
    return data


def append_line(path: Path, data: Mapping[str, Any]) -> None:
    """Append a line of JSON to a file that only this process writes."""
    append(path, (json_text(data) + "\n").encode())


def read_lines(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects in all JSON-lines files of a directory. A killed process may leave half a last line, which is
    skipped."""
    for name in sorted(names_in(directory)):
        for line in (directory / name).read_bytes().split(b"\n"):
            with suppress(ValueError):
                yield json.loads(line)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a Parquet file, replacing an existing one."""
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file. Raises RunError if it is missing or damaged."""
    import pandas as pd

    try:
        return pd.read_parquet(io.BytesIO(path.read_bytes()))
    except (ValueError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}); remove it and run the command again") from error
