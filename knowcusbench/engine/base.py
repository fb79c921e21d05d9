"""The contract of an engine: it runs jobs on workers and knows nothing of what they do."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Optional, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

Worker = Callable[[Job], Iterator[Result]]
"""Does one job and yields results as they come. A worker may keep what is dear to load (a backbone). A job may be begun
again elsewhere after a worker died in it, so doing it twice must do no harm."""


class WorkerBroken(Exception):
    """Raised by a worker whose process can't go on, as after an error of its GPU."""


class Engine(ABC):
    """Runs jobs, in any order, on one or more workers.

    Attributes:
        retries: how often what fails by itself is tried again.
    """

    retries: int

    @property
    def parallelism(self) -> int:
        """The number of workers that are expected to run at once."""
        return 1

    @property
    def beside(self) -> Optional["Engine"]:
        """An engine with workers of its own, which can score while this one draws; None if there is none."""
        return None

    def check(self) -> None:  # noqa: B027, this process has room for itself
        """Called before any work: raise ConfigError for workers that can't be had."""

    @abstractmethod
    def run(self, make_worker: Callable[[], "Worker[Job, Result]"], jobs: Sequence[Job]) -> Iterator[Result]:
        """Yield the results of all jobs as they come.

        `make_worker` is called once per worker, where the worker lives; it and the jobs can be pickled. An exception in
        a job ends the iteration and is raised here.
        """

    def close(self) -> None:  # noqa: B027, this process needs no end
        """Let go of all workers. They come back when they are needed."""
