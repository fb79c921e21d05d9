"""The contract of an engine: it runs jobs on workers, whatever the jobs do."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Optional, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

Worker = Callable[[Job], Iterator[Result]]
"""A function that does one job and yields results as they come.

It may keep expensive state (a backbone). A job may be restarted elsewhere after its worker died, so doing it twice must
do no harm.
"""


class WorkerBroken(Exception):
    """An error that a worker raises if its process can't continue, as after a GPU error."""


class Engine(ABC):
    """A runner of jobs, in any order, on one or more workers.

    Attributes:
        retries: number of times that an isolated failure is retried.
    """

    retries: int

    @property
    def parallelism(self) -> int:
        """Number of workers that are expected to run at once."""
        return 1

    @property
    def beside(self) -> Optional["Engine"]:
        """An engine with its own workers, which can score while this one draws; None if there is none."""
        return None

    def check(self) -> None:  # noqa: B027, this process has room for itself
        """Raise ConfigError if the workers can't be had. Called before any work."""

    @abstractmethod
    def run(self, make_worker: Callable[[], "Worker[Job, Result]"], jobs: Sequence[Job]) -> Iterator[Result]:
        """Yield the results of all jobs as they come.

        `make_worker` is called once per worker, in the worker's process; it and the jobs can be pickled. An exception
        in a job ends the iteration and is raised here.
        """

    def close(self) -> None:  # noqa: B027, this process needs no end
        """Release all workers. They are started again when needed."""
