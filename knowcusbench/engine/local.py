"""The default engine: this process, one device."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from knowcusbench.engine.base import Engine, Job, Result, Worker


@dataclass(frozen=True, kw_only=True)
class LocalEngine(Engine):
    """Runs the jobs one after the other on a single worker in this process.

    Attributes:
        retries: how often an image that can't be drawn is tried again.
    """

    retries: int = 2

    def run(self, make_worker: Callable[[], Worker[Job, Result]], jobs: Sequence[Job]) -> Iterator[Result]:
        worker = make_worker()
        for job in jobs:
            yield from worker(job)
