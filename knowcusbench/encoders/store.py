"""A store of embeddings: each image is embedded once for all metrics, methods, runs and processes."""

import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from knowcusbench.errors import WeightsError
from knowcusbench.storage.digests import Memo
from knowcusbench.storage.files import atomic_path

Rows = NDArray[np.float32]
"""Embeddings (n, width)."""

MEMORY = 1 << 15
"""Embeddings held in memory at a time: 128 MiB at 1024 dimensions."""

ROWS, KEYS = ".rows.npy", ".keys.npy"


class EmbeddingStore:
    """Rows of numbers by key, in a directory that any number of processes may add to.

    Each addition is a file of rows, read through a memory map, followed by a file of their keys; both are written
    atomically. Before anything is computed, other processes' additions are looked up. Memory holds the keys (about 250
    bytes each) and the most recently used rows.

    Args:
        directory: None keeps rows in memory only.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._memo: Memo[str, Rows] = Memo(MEMORY)
        self._tables: list[Rows] = []
        self._index: dict[str, tuple[int, int]] = {}
        self._seen: set[str] = set()
        self._refresh()

    def fetch(self, keys: Sequence[str], compute: Callable[[list[str]], Rows]) -> Rows:
        """Return the rows (keys, width) of `keys`, computing those that are missing.

        Args:
            compute: called at most once, with the distinct keys that have no row yet; returns their rows in that order.

        Raises WeightsError, naming the directory, if the stored rows have another width than the computed ones.
        """
        rows = self._memo.fetch(keys, lambda missing: self._fetch(missing, compute))
        return np.stack(rows) if rows else np.empty((0, 0), dtype=np.float32)

    def _fetch(self, keys: list[str], compute: Callable[[list[str]], Rows]) -> list[Rows]:
        if not self._index.keys() >= set(keys):
            self._refresh()
        new = [key for key in keys if key not in self._index]
        computed = dict(zip(new, self._keep(new, compute(new)), strict=True)) if new else {}
        return [computed[key] if key in computed else self._row(key) for key in keys]

    def _row(self, key: str) -> Rows:
        table, place = self._index[key]
        return np.array(self._tables[table][place])

    def _keep(self, keys: list[str], rows: Rows) -> Rows:
        if self._directory and np.isfinite(rows).all():
            width = self._tables[0].shape[1] if self._tables else rows.shape[1]
            if width != rows.shape[1]:
                raise WeightsError(
                    f"{self._directory}: holds embeddings of {width} numbers, and the encoder gives {rows.shape[1]}; "
                    "remove that directory"
                )
            name = uuid.uuid4().hex
            for suffix, array in ((ROWS, rows), (KEYS, np.array([key.encode() for key in keys]))):
                with atomic_path(self._directory / f"{name}{suffix}") as temporary, temporary.open("wb") as handle:
                    np.save(handle, array)
            self._open(self._directory / f"{name}{KEYS}")
        return rows

    def _refresh(self) -> None:
        """Open files of keys added since the last call."""
        for file in sorted(self._directory.glob(f"[!.]*{KEYS}")) if self._directory else ():
            if file.name not in self._seen:
                self._open(file)

    def _open(self, file: Path) -> None:
        self._seen.add(file.name)
        try:
            keys = np.load(file, allow_pickle=False)
            rows = np.load(file.with_name(file.name.replace(KEYS, ROWS)), mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError) as error:
            tqdm.write(f"knowcusbench: {file}: damaged, its embeddings are computed again ({error})", file=sys.stderr)
            return
        self._tables.append(rows)
        self._index.update((key.decode(), (len(self._tables) - 1, place)) for place, key in enumerate(keys))
