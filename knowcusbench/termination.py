"""Stopping when a scheduler says so: SIGTERM ends the command in time, and nothing that was finished is lost."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM
"""What a shell reports of a process that SIGTERM ended; schedulers take it for "stopped", not for "failed"."""

GRACE = 8.0
"""Seconds after which the process ends in any case. Slurm waits 30 between SIGTERM and SIGKILL, others 10."""


class Terminated(BaseException):
    """Raised wherever the main thread is when SIGTERM arrives. The batch that is being drawn is dropped."""


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` for the duration of a block, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    # A call into a library may not come back in time; files appear whole or not at all, so this is safe.
    watchdog = threading.Timer(GRACE, os._exit, [EXIT_CODE])
    watchdog.daemon = True
    watchdog.start()
    raise Terminated
