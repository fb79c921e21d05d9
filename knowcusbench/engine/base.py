"""The contract of an engine: it runs jobs on workers and knows nothing of what they do."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

Worker = Callable[[Job], Iterator[Result]]
"""Does one job and yields results as they come. A worker may keep what is dear to load (a backbone)."""


class Engine(ABC):
    """Runs jobs, in any order, on one or more workers."""

    @abstractmethod
    def run(self, make_worker: Callable[[], "Worker[Job, Result]"], jobs: Sequence[Job]) -> Iterator[Result]:
        """Yield the results of all jobs as they come.

        `make_worker` is called once per worker, where the worker lives; it and the jobs can be pickled. An
        exception in a job ends the iteration and is raised here.
        """
