"""Safe reading of a benchmark directory: nothing outside it is ever opened."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from knowcusbench.benchmark.findings import Findings
from knowcusbench.storage.files import LFS_POINTER


class RepeatedKeyError(ValueError):
    """A JSON object with a repeated key, whose value is ambiguous."""


def parse_json(data: bytes) -> Any:
    """Return the value of a UTF-8 JSON text, with or without a byte-order mark.

    Raises RepeatedKeyError for an object that names a key twice, and another ValueError for invalid JSON.

    >>> parse_json(b'{"name": "dog"}')
    {'name': 'dog'}
    >>> parse_json(b'{"name": "dog", "name": "cat"}')
    Traceback (most recent call last):
    knowcusbench.benchmark.tree.RepeatedKeyError: duplicate key 'name' in one object
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, count in Counter(key for key, _ in pairs).items():
            if count > 1:
                raise RepeatedKeyError(f"duplicate key {key!r} in one object")
        return dict(pairs)

    if data.startswith(LFS_POINTER):
        raise ValueError("a Git LFS pointer; run `git lfs pull`")
    return json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique)


def is_ignored(name: str) -> bool:
    """Return whether a file or folder is not the user's own: hidden, or added to archives by macOS."""
    return name.startswith(".") or name == "__MACOSX"


class ReleaseTree:
    """The files of a benchmark directory.

    A symbolic link is followed only if it ends inside the directory, or inside the blob folders of the Hugging Face
    cache that holds the directory as a snapshot. Names for which `is_ignored` holds are ignored.
    """

    def __init__(self, root: Path, findings: Findings) -> None:
        self.root = root
        self.findings = findings
        resolved = Path(os.path.realpath(root))
        self._allowed = (resolved, *_hub_blob_folders(resolved))

    def where(self, path: Path) -> str:
        """Return a path as messages show it: relative to the root, with bytes that are not UTF-8 escaped."""
        return path.relative_to(self.root).as_posix().encode(errors="backslashreplace").decode()

    def entries(self, folder: Path) -> list[Path]:
        """Return the visible files and folders of a folder, in name order; none if the folder does not exist.

        A link out of the directory, or anything that is neither file nor folder, is a fault and left out.
        """
        if not self._is_inside(folder) or not folder.is_dir():
            return []
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            self.findings.fault(self.where(folder), f"can't be listed: {error.strerror}")
            return []
        return [path for name in names if not is_ignored(name) and self._is_usable(path := folder / name)]

    def folders(self, folder: Path) -> dict[str, Path]:
        """Return the visible folders in a folder, by name."""
        return {path.name: path for path in self.entries(folder) if path.is_dir()}

    def files_below(self, folder: Path) -> list[Path]:
        """Return all visible files of a folder and its sub-folders."""
        files: list[Path] = []
        for path in self.entries(folder):
            files += self.files_below(path) if path.is_dir() else [path]
        return files

    def read_bytes(self, path: Path) -> bytes | None:
        """Return the content of a file; None, with a fault, if it is unavailable."""
        if not self._is_inside(path):
            return None
        try:
            return path.read_bytes()
        except FileNotFoundError:
            self.findings.fault(self.where(path), "missing file")
        except OSError as error:
            self.findings.fault(self.where(path), f"can't be read: {error.strerror}")
        return None

    def read_json(self, path: Path) -> Any:
        """Return the value in a UTF-8 JSON file; None, with a fault, if it is unavailable.

        An object that names a key twice is a fault: its value is ambiguous.
        """
        data = self.read_bytes(path)
        if data is None:
            return None
        where = self.where(path)
        try:
            value = parse_json(data)
        except UnicodeDecodeError as error:
            self.findings.fault(where, f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}")
        except json.JSONDecodeError as error:
            self.findings.fault(where, f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}")
        except RepeatedKeyError as error:
            self.findings.fault(where, str(error))
        except (ValueError, RecursionError) as error:  # A number of thousands of digits, endless nesting.
            self.findings.fault(where, f"JSON that can't be read: {error}")
        else:
            if value is None:
                self.findings.fault(where, "holds null")
            return value
        return None

    def _is_inside(self, path: Path) -> bool:
        # Not Path.resolve, which raises on a loop of links; realpath returns such a path unchanged.
        target = Path(os.path.realpath(path))
        if any(target.is_relative_to(folder) for folder in self._allowed):
            return True
        # A hub snapshot consists of links into the cache's blobs, which a plain copy leaves behind.
        remedy = "; copy a hub snapshot with `cp -rL`" if "blobs" in target.parts else ""
        self.findings.fault(self.where(path), f"symbolic link out of the benchmark directory{remedy}")
        return False

    def _is_usable(self, path: Path) -> bool:
        if not self._is_inside(path):
            return False
        if not path.name.isprintable():
            what = "file name with control characters or not in UTF-8"
        elif path.is_file() or path.is_dir():
            return True
        elif path.is_symlink():
            what = "missing file (a broken link)"
        else:
            what = "not a regular file"
        self.findings.fault(self.where(path), what)
        return False


def _hub_blob_folders(root: Path) -> tuple[Path, ...]:
    """Return the blob folders that hold the files of a hub snapshot.

    `huggingface_hub` keeps `<cache>/datasets--<owner>--<name>/snapshots/<commit>/...` as links into the repository's
    `blobs`, and those in turn may be links into `<cache>/blobs`, which repositories share.
    """
    for folder in (root, *root.parents):
        repository = folder.parent.parent
        if folder.parent.name == "snapshots" and repository.name.startswith("datasets--"):
            return (repository / "blobs", repository.parent / "blobs")
    return ()
