"""Stopping at a scheduler's request: SIGTERM ends the command in time, and no finished work is lost."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM
"""Exit code that a shell reports for a process ended by SIGTERM. Schedulers read it as "stopped", not as "failed"."""

GRACE = 8.0
"""Seconds after which the process ends in any case. Slurm waits 30 between SIGTERM and SIGKILL, others 10."""


class Terminated(BaseException):
    """An exception raised in the main thread when SIGTERM arrives. The batch that is being drawn is dropped."""


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` during a block in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Python raises the exception only after a call into a library returns, which may be too late. The signal's number
    # is also written to this socket at once, where a thread reads it and ends the process if nothing else does. Files
    # appear whole or not at all, so that is safe.
    here, there = socket.socketpair()
    there.setblocking(False)
    threading.Thread(target=_end_in_time, args=(here,), daemon=True).start()
    handler = signal.signal(signal.SIGTERM, _terminate)
    descriptor = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, handler)
        there.close()


def _end_in_time(numbers: socket.socket) -> None:
    with numbers:
        while received := numbers.recv(1):
            if received[0] == signal.SIGTERM:
                time.sleep(GRACE)
                os._exit(EXIT_CODE)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
