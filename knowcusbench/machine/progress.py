"""The progress of a stage: a bar on a terminal, else a line at the start, every half minute and at the end."""

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

EVERY = 30.0
"""Seconds between two lines."""

HOUR, MINUTE = 3600, 60


Listener = Callable[[str], None]
"""What gets the lines of progress in the place of standard error."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)

_open: list["Progress"] = []
"""Progress blocks that print lines now, outermost first; only the last one prints."""


class Progress:
    """A counter of a stage's finished items, shown on standard error while its `with` block runs.

    Where standard error is not a terminal, a thread prints the lines, so that they also come while one long job yields
    nothing. A stage with nothing to do prints nothing. A block within another one's prints its first line only once it
    has taken `every` seconds, since the outer block already names the stage.

    Attributes:
        title: the stage's name in the lines; None shows nothing.
        total: number of items, including those done before; None for a stage whose items are not counted.
        n: number of items done.
    """

    def __init__(
        self,
        title: str | None,
        total: int | None = None,
        *,
        done: int = 0,
        unit: str = "",
        workers: int = 1,
        every: float = EVERY,
        stream: TextIO | None = None,
    ) -> None:
        self.title, self.total, self.n = title, total, done
        self._before, self._unit, self._workers, self._every = done, unit and f" {unit}s", workers, every
        self._stream = stream or output()
        self._bar: tqdm[Any] | None = None
        self._lines: threading.Thread | None = None
        self._ended = threading.Event()
        self._started = time.monotonic()

    def __enter__(self) -> "Progress":
        self._started = time.monotonic()
        if self.title is None:
            return self
        if self._stream.isatty():
            if self.total is not None:
                unit = self._unit[1:-1] or "it"
                self._bar = tqdm(desc=self.title, total=self.total, initial=self.n, unit=unit, file=self._stream)
        elif self.total is None or self.n < self.total:
            self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._bar is not None:
            self._bar.close()
        if self._lines is not None:
            self._lines.join()
            is_part = _open.index(self) > 0
            _open.remove(self)
            if not is_part or self._seconds() >= self._every:
                self._say(f"{'ended' if kind is None else 'stopped'}{self._count()} after {duration(self._seconds())}")

    def update(self, count: int = 1) -> None:
        """Count `count` more items as done."""
        self.reach(self.n + count)

    def reach(self, done: int) -> None:
        """Set the number of items done in all."""
        if self._bar is not None:
            self._bar.update(done - self.n)
        self.n = done

    def expect(self, total: int) -> None:
        """Set the number of items in all, including those already done."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()
        elif self._lines is None and self.title and self.n < total and not self._stream.isatty():
            self._begin()

    def note(self, text: str) -> None:
        """Show a text after the bar, such as the last item done."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def _begin(self) -> None:
        if not _open:
            to_do = ""
            if self.total is not None:
                of_all = f" of {self.total:,}" if self.n else ""
                to_do = f", {self.total - self.n:,}{of_all}{self._unit} to do{self._by_workers()}"
            self._say(f"begins{to_do}")
        _open.append(self)
        self._lines = threading.Thread(target=self._keep_saying, name=f"progress of {self.title}", daemon=True)
        self._lines.start()

    def _keep_saying(self) -> None:
        while not self._ended.wait(self._every):
            if _open[-1] is self:
                self._say(self.line())

    def line(self) -> str:
        """Return the current line: items done and in all, time so far, rate, time left, workers."""
        return f"{self._count().lstrip(', ') or 'at work'}, {duration(self._seconds())}{self._left()}"

    def _count(self) -> str:
        if self.total is None:
            return ""
        return f", {self.n:,} of {self.total:,}{self._unit} done"

    def _left(self) -> str:
        """Return rate, time left and workers, as far as they are known."""
        made, left = self.n - self._before, (self.total or 0) - self.n
        if self.total is None:
            return ""
        if not made:
            return self._by_workers()
        pace = self._seconds() / made
        return f", {rate(1 / pace)}, about {duration(left * pace)} left{self._by_workers()}"

    def _by_workers(self) -> str:
        return f", {self._workers} workers" if self._workers > 1 else ", 1 worker"

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _say(self, text: str) -> None:
        # One call: lines of two threads must not mix.
        self._stream.write(f"{self.title}: {text}\n")
        self._stream.flush()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Give the lines of `say` and `Progress` to `listener` inside of the block, and have `show` print nothing.

    This holds for the thread, or the task of an event loop, that runs the block, and for threads that are started with
    a copy of its context.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def output() -> TextIO:
    """Return where lines of progress go: standard error, or a stream that hands them to the listener."""
    listener = _listener.get()
    return sys.stderr if listener is None else _Lines(listener)


class _Lines(io.StringIO):
    """A stream that nothing can be read from: whole lines go to a listener."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

    def write(self, text: str) -> int:
        if line := text.rstrip("\n"):
            self._listener(line)
        return len(text)


def say(text: str) -> None:
    """Print a line to standard error. `logging` does not serve here: Hydra removes the root logger's handlers."""
    stream = output()
    stream.write(f"{text}\n")
    stream.flush()


def show(text: str) -> None:
    """Print a result to standard output, unless someone listens: who called from Python has the result itself."""
    if _listener.get() is None:
        print(text)


_said: set[str] = set()


def say_once(line: str) -> None:
    """Print a line like `say`, but each line only once in a process; lines that only a listener got do not count."""
    if line not in _said:
        say(line)
        if _listener.get() is None:
            _said.add(line)


def rate(per_second: float) -> str:
    """Return a rate as text, per second, minute or hour: the shortest of these that makes it at least one.

    >>> rate(2.5), rate(0.05), rate(0.001)
    ('2.5/s', '3.0/min', '3.6/h')
    """
    for seconds, name in ((1, "s"), (MINUTE, "min")):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:.1f}/{name}"
    return f"{per_second * HOUR:.1f}/h"


def duration(seconds: float) -> str:
    """Return seconds as text, in hours or minutes from two of them on.

    >>> duration(12.34), duration(11520)
    ('12.3 seconds', '3.2 hours')
    """
    for unit, name in ((HOUR, "hours"), (MINUTE, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:.1f} seconds"
