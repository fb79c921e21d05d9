"""Stopping when a scheduler says so: SIGTERM ends the command in time, and nothing that was finished is lost."""

import os
import signal
import socket
import threading
import time
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
    # Python raises only once a call into a library comes back, and that may not be in time: the number of the signal
    # also goes into this socket at once, and to a thread that ends the process if nothing else does. Files appear
    # whole or not at all, so that is safe.
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
