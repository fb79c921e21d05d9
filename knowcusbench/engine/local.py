"""The default engine: this process and one device."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from knowcusbench.engine.base import Engine, Job, Result, Worker


@dataclass(frozen=True, kw_only=True)
class LocalEngine(Engine):
    """An engine that runs jobs one after the other on a single worker in this process.

    Attributes:
        retries: number of times that an image that can't be drawn is tried again.
    """

    retries: int = 2

    def run(self, make_worker: Callable[[], Worker[Job, Result]], jobs: Sequence[Job]) -> Iterator[Result]:
        worker = make_worker()
        for job in jobs:
            yield from worker(job)
