"""Who does what: claims on pieces of work, so that any number of processes on one directory do none twice.

A claim is a file that only one process can create. Its owner writes it again every few seconds; a claim that stays as
it is for `LEASE` seconds, or whose process on this machine is gone, may be taken over by creating the next in number:
`<piece>.0.claim`, `<piece>.1.claim`, ... and the highest counts. Nothing is locked, and no two clocks are compared, so
this works on network file systems and in object stores.

Whoever has a claim looks again whether the piece is already done before doing it. An owner that was only asleep finds
its claim superseded and must not write; at worst, if that happens between its looking and its writing, the same bytes
are written twice.
"""

import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from knowcusbench.storage.files import create_exclusively, names_in, remove, write_atomic

LEASE = 60.0
"""Seconds after which a claim that is not renewed may be taken over."""

RENEWALS = 4
"""How often an owner writes its claims in a lease."""

TICK = 0.2
"""Seconds between two looks at which claims are to be renewed."""


SUFFIX = ".claim"


def piece_of(*names: str) -> str:
    """The name of a piece of work that these names tell from others: 16 hex digits."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]


class Claims:
    """The claims in one directory, as this process sees them. Only work in progress has files there."""

    def __init__(self, directory: Path, lease: float = LEASE) -> None:
        self.directory = directory
        self.lease = lease
        self._seen: dict[str, tuple[bytes, float]] = {}

    @contextmanager
    def of(self, piece: str) -> Iterator["Claim | None"]:
        """The claim on a piece of work for the duration of a block; None if another process has it. `piece` is a file
        name without a dot."""
        claim = self._take(piece)
        if not claim:
            yield None
            return
        with _lock:
            _held[str(claim.path)] = claim
        _start_renewing()
        try:
            yield claim
        finally:
            with _lock:
                _held.pop(str(claim.path), None)
                remove(claim.path)

    def remove_dead(self) -> None:
        """Remove claims of processes of this machine that are no more: of one that ended between the last file of a
        piece and its release, nobody would take over the claim."""
        for name in names_in(self.directory):
            if name.endswith(SUFFIX):
                with suppress(FileNotFoundError):
                    if _is_of_dead_process((self.directory / name).read_bytes()):
                        remove(self.directory / name)

    def _take(self, piece: str) -> "Claim | None":
        numbers = sorted(
            int(parts[1])
            for name in names_in(self.directory)
            if len(parts := name.split(".")) == 3 and parts[0] == piece and f".{parts[2]}" == SUFFIX
        )
        latest = numbers[-1] if numbers else -1
        if numbers and not self._abandoned(self._path(piece, latest)):
            return None
        claim = Claim(self._path(piece, latest + 1), self._path(piece, latest + 2), self.lease / RENEWALS)
        if not create_exclusively(claim.path, claim.content()):
            return None
        for number in numbers:
            remove(self._path(piece, number))
        return claim

    def _path(self, piece: str, number: int) -> Path:
        return self.directory / f"{piece}.{number}{SUFFIX}"

    def _abandoned(self, path: Path) -> bool:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            # Released just now: free when it is looked at next.
            return False
        if _is_of_dead_process(content):
            return True
        before, since = self._seen.get(str(path), (None, 0.0))
        if before == content:
            return time.monotonic() - since > self.lease
        self._seen[str(path)] = (content, time.monotonic())
        return False


@dataclass
class Claim:
    """A claim of this process.

    Attributes:
        path: its file.
        successor: the file by which another process takes over.
        interval: seconds between two renewals.
    """

    path: Path
    successor: Path
    interval: float
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _renewals: int = 0
    _renewed: float = field(default_factory=time.monotonic)

    def holds(self) -> bool:
        """Whether no other process has taken over."""
        return not self.successor.exists()

    def renew_if_due(self) -> None:
        if time.monotonic() - self._renewed > self.interval:
            self._renewals += 1
            self._renewed = time.monotonic()
            write_atomic(self.path, self.content())

    def content(self) -> bytes:
        return json.dumps({**_this_process(), "token": self._token, "renewals": self._renewals}).encode()


def _this_process() -> dict[str, Any]:
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


@lru_cache(maxsize=1)
def _host() -> str:
    """This machine since it started, and the name space that process numbers are of."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}-{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()}-{psutil.boot_time()}"


@lru_cache(maxsize=1)
def _started(pid: int) -> float:
    return psutil.Process(pid).create_time()


def _is_of_dead_process(content: bytes) -> bool:
    """Whether a claim is of a process of this machine that is no more."""
    try:
        owner = json.loads(content)
        if owner["host"] != _host():
            return False
        process = psutil.Process(owner["pid"])
        # A clock that was set makes no difference of a second; a number used again does.
        return abs(process.create_time() - owner["started"]) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError, psutil.Error):
        # Not written to its end yet.
        return False


_held: dict[str, Claim] = {}
_lock = threading.Lock()


@lru_cache(maxsize=1)
def _start_renewing() -> None:
    """Have the claims of this process written again and again, by one thread, as long as it lives."""
    threading.Thread(target=_renew, daemon=True).start()


def _renew() -> None:
    while True:
        time.sleep(TICK)
        with _lock:
            for claim in _held.values():
                # Tried again at the next renewal; a claim that can't be renewed is lost after the lease.
                with suppress(OSError):
                    claim.renew_if_due()
