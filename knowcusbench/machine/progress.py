"""The progress of a stage: a bar on a terminal; elsewhere lines when it begins, every half minute, and when it ends."""

import sys
import threading
import time
from functools import cache
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

EVERY = 30.0
"""Seconds between two lines."""

HOUR, MINUTE = 3600, 60


_open: list["Progress"] = []
"""What has lines at the moment; the last one's come."""


class Progress:
    """Counts what is done of a stage, and shows it on standard error while its `with` block runs.

    Where standard error is not a terminal, a thread prints the lines, so that they also come while one long job yields
    nothing. A stage with nothing to do prints nothing. Inside of another one's block, which tells of the stage, a part
    of it has lines only once it has taken as long as two lines are apart.

    Attributes:
        title: the stage, as the lines name it; None shows nothing.
        total: things to do, those that were done before included; None for a stage whose parts are not counted.
        n: things done.
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
        self._stream = stream or sys.stderr
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
        """Count `count` more things as done."""
        self.reach(self.n + count)

    def reach(self, done: int) -> None:
        """Set how many things are done in all."""
        if self._bar is not None:
            self._bar.update(done - self.n)
        self.n = done

    def expect(self, total: int) -> None:
        """Set how many things there are in all, those that are done included."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()
        elif self._lines is None and self.title and self.n < total and not self._stream.isatty():
            self._begin()

    def note(self, text: str) -> None:
        """Show a word beside the bar: what was done last."""
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
        """Return what a line says now: done, of how many, time so far, rate, time left, workers."""
        return f"{self._count().lstrip(', ') or 'at work'}, {duration(self._seconds())}{self._left()}"

    def _count(self) -> str:
        if self.total is None:
            return ""
        return f", {self.n:,} of {self.total:,}{self._unit} done"

    def _left(self) -> str:
        """Rate, time left and workers, as far as they are known."""
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


def say(text: str) -> None:
    """Print a line to standard error. Not by `logging`: Hydra takes the root logger's handlers away."""
    print(text, file=sys.stderr, flush=True)


@cache
def say_once(line: str) -> None:
    """As `say`, but never the same line twice in a process."""
    say(line)


def rate(per_second: float) -> str:
    """Return a rate for people, with the largest of the units second, minute and hour that makes it at least one."""
    for seconds, name in ((1, "s"), (MINUTE, "min")):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:.1f}/{name}"
    return f"{per_second * HOUR:.1f}/h"


def duration(seconds: float) -> str:
    """Return seconds for people: "12.3 seconds", "3.2 hours"."""
    for unit, name in ((HOUR, "hours"), (MINUTE, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:.1f} seconds"
