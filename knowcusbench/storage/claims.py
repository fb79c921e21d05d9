"""Claims on pieces of work, so that any number of processes share one directory and do no piece twice.

A claim is a file that only one process can create. Its owner rewrites it every few seconds. Another process may take a
claim over when it has not changed for `LEASE` seconds, or when its owner was a process of this machine and has ended.
To take over is to create the file with the next number: `<piece>.0.claim`, `<piece>.1.claim`, ...; the highest number
counts. Nothing is locked and no two clocks are compared, so this works on network file systems and in object stores.

The holder of a claim checks again whether the piece is done before doing it. An owner that was only asleep finds its
claim superseded and must not write. If it is superseded between this check and the write, the same bytes are written
twice, and nothing worse happens.
"""

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

from knowcusbench.storage.digests import text_digest
from knowcusbench.storage.files import create_exclusively, names_in, remove, write_atomic

LEASE = 60.0
"""Seconds after which a claim that is not renewed may be taken over."""

RENEWALS = 4
"""Number of times that an owner rewrites a claim in one lease."""

TICK = 0.2
"""Seconds between two checks for claims that are due for renewal."""


SUFFIX = ".claim"


def piece_of(*names: str) -> str:
    """Return a 16-hex-digit id for a piece of work, derived from the names that identify it.

    >>> piece_of("draw", "dog3", "0")
    '1bca5596e75df1be'
    """
    return text_digest("\0".join(names), 16)


class Claims:
    """The claims in one directory, as this process sees them. Only work in progress has files there."""

    def __init__(self, directory: Path, lease: float = LEASE) -> None:
        self.directory = directory
        self.lease = lease
        self._seen: dict[str, tuple[bytes, float]] = {}

    @contextmanager
    def of(self, piece: str) -> Iterator["Claim | None"]:
        """Hold the claim on a piece of work during a `with` block; yield None if another process has it.

        `piece` is a file name without a dot.
        """
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
        """Remove claims left by dead processes of this machine.

        Needed when a process died after finishing a piece but before releasing it: nobody would ever take that claim
        over.
        """
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
            # Released just now: the next call finds it free.
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
    """A claim held by this process.

    Attributes:
        path: the claim's file.
        successor: the file that another process creates to take over.
        interval: seconds between two renewals.
    """

    path: Path
    successor: Path
    interval: float
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _renewals: int = 0
    _renewed: float = field(default_factory=time.monotonic)

    def holds(self) -> bool:
        """Return whether no other process has taken over."""
        return not self.successor.exists()

    def renew_if_due(self) -> None:
        """Rewrite the claim's file if `interval` seconds have passed since the last time."""
        if time.monotonic() - self._renewed > self.interval:
            self._renewals += 1
            self._renewed = time.monotonic()
            write_atomic(self.path, self.content())

    def content(self) -> bytes:
        """Return the content of the claim's file: its process, a random token and the number of renewals."""
        return json.dumps({**_this_process(), "token": self._token, "renewals": self._renewals}).encode()


def _this_process() -> dict[str, Any]:
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


@lru_cache(maxsize=1)
def _host() -> str:
    """Return the boot id and PID namespace: together they say whether a PID is comparable with ours."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}-{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()}-{psutil.boot_time()}"


@lru_cache(maxsize=1)
def _started(pid: int) -> float:
    return psutil.Process(pid).create_time()


def _is_of_dead_process(content: bytes) -> bool:
    """Return whether a claim belongs to a dead process of this machine."""
    try:
        owner = json.loads(content)
        if owner["host"] != _host():
            return False
        process = psutil.Process(owner["pid"])
        # Setting the clock moves the start time by less than a second; a reused PID moves it by more.
        return abs(process.create_time() - owner["started"]) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError, psutil.Error):
        # The claim is not fully written yet.
        return False


_held: dict[str, Claim] = {}
_lock = threading.Lock()


@lru_cache(maxsize=1)
def _start_renewing() -> None:
    """Start the one thread that renews this process's claims for as long as the process lives."""
    threading.Thread(target=_renew, daemon=True).start()


def _renew() -> None:
    while True:
        time.sleep(TICK)
        with _lock:
            for claim in _held.values():
                # The next tick tries again; a claim that can't be renewed is lost after its lease.
                with suppress(OSError):
                    claim.renew_if_due()
