"""Digests of file contents, and memory of what was computed from them."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from knowcusbench.errors import ImageError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memo(Generic[K, V]):
    """Computed values by key. Beyond `capacity`, the least recently used are dropped."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[K, V] = OrderedDict()

    def fetch(self, keys: Sequence[K], compute: Callable[[list[K]], Sequence[V]]) -> list[V]:
        """Return the values of `keys`, in order.

        `compute` is called at most once, with the distinct keys that are not remembered, and returns their values in
        that order.

        >>> Memo(capacity=2).fetch(["a", "bb", "a"], lambda keys: [len(key) for key in keys])
        [1, 2, 1]
        """
        distinct = list(dict.fromkeys(keys))
        values = {key: self._values[key] for key in distinct if key in self._values}
        missing = [key for key in distinct if key not in values]
        if missing:
            values.update(zip(missing, compute(missing), strict=True))
        for key in distinct:
            self._values[key] = values[key]
            self._values.move_to_end(key)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)
        return [values[key] for key in keys]


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes. A file with a known size and modification time is not read again.

    Raises ImageError if it can't be read.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ImageError(f"{path}: image can't be read: {error.strerror}") from error


@lru_cache(maxsize=1 << 16)
def _digest(path: Path, _size: int, _mtime_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def text_digest(text: str, digits: int = 64) -> str:
    """Return the first hex digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def json_digest(data: Any, digits: int = 64, *, sort_keys: bool = False) -> str:
    """Return the first hex digits of the SHA-256 of JSON values. Results are stored under such digests: what is
    hashed stays as `json.dumps` writes it by default."""
    return text_digest(json.dumps(data, sort_keys=sort_keys), digits)


def content_id(prefix: str, seed: int) -> str:
    """Return the first 16 hex digits of the SHA-256 of `prefix` followed by `seed`.

    >>> content_id("dog3", 0)
    'd2b5e5d4460ab7a6'
    """
    return text_digest(f"{prefix}{seed}", 16)


def noise_seed(content: str) -> int:
    """Return the first 63 bits of an id (16 hex digits) as a seed for noise.

    >>> noise_seed("0000000000000004")
    2
    """
    return int(content, 16) >> 1


def stamp_of(path: Path) -> str:
    """Return 16 hex digits of a digest of an image file."""
    return content_digest(path)[:16]
