"""Workers on one machine or a cluster, run by Ray."""

import atexit
import math
import os
import re
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Any, Generic

from tqdm import tqdm

from knowcusbench.engine.base import Engine, Job, Result, Worker, WorkerBroken
from knowcusbench.engine.placement import Node, Share, drawers_beside, room
from knowcusbench.errors import ConfigError, RunError, UserError, first_line

LOOK = 1.0
"""Seconds between two checks for workers that have started or died."""

WORKER_MEMORY = 2 * 2**30
"""Bytes of main memory that one more worker on the CPU needs; its libraries take half."""


CARRIED = re.compile(
    "(HF|HUGGINGFACE|KNOWCUSBENCH|TRANSFORMERS|DIFFUSERS|TORCH|PYTORCH|ATEN|ONEDNN|CUBLAS)_|NVIDIA_TF32_OVERRIDE"
)
SECRET = re.compile("TOKEN|KEY|SECRET|PASSW|CREDENTIAL")
PATH = re.compile("_(HOME|CACHE|DIR)$")
"""Environment variables that workers of a joined cluster get (`CARRIED`) or never get (`SECRET`), and those that name a
directory (`PATH`)."""


@dataclass(frozen=True, kw_only=True)
class RayEngine(Engine):
    """Workers that live as long as the command, each with its own backbone.

    Idle workers pull the next job; a job whose worker dies is retried on another worker.

    Attributes:
        address: "auto" or an address joins a running cluster; null starts Ray on this machine.
        workers: largest number of workers; null takes as many as fit (without GPUs, one for every two gigabytes that
            Ray may use at most).
        gpus_per_worker: GPUs of a worker; null is one where the cluster has any, or the part of it that a scoring
            worker leaves.
        cpus_per_worker: processor cores of a worker.
        score_workers: number of workers that score images while others draw; 0 scores afterwards with all workers.
            Their cores and GPUs are set aside before drawing workers are counted.
        gpus_per_score_worker: GPUs of a scoring worker, such as 0.25; 0 scores on the processor.
        retries: number of times that an image that can't be drawn is tried again, and that a job is given to another
            worker after its worker died before any result.
        start_seconds: seconds to wait for the first worker.
        show_output: whether to print the workers' output.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    cpus_per_worker: float = 1
    score_workers: int = 0
    gpus_per_score_worker: float = 0
    retries: int = 2
    start_seconds: float = 300.0
    show_output: bool = False

    def __post_init__(self) -> None:
        for key, value, least in (
            ("workers", self.workers, 1),
            ("score_workers", self.score_workers, 0),
            ("retries", self.retries, 0),
            ("gpus_per_worker", self.gpus_per_worker, 0),
            ("gpus_per_score_worker", self.gpus_per_score_worker, 0),
        ):
            if value is not None and value < least:
                raise ConfigError(f"engine.{key}: expected at least {least}, found {value}")
            if key.startswith("gpus") and value and value > 1 and value % 1:
                raise ConfigError(f"engine.{key}: expected a part of a GPU or a whole number, found {value}")
        if not self.cpus_per_worker > 0:
            raise ConfigError(f"engine.cpus_per_worker: expected more than 0, found {self.cpus_per_worker}")

    @property
    def parallelism(self) -> int:
        return _pool(self).room()

    def shares(self, gpus: float) -> tuple[Share, Share]:
        """Return the shares of a drawing worker and a scoring worker in a cluster with this many GPUs."""
        scoring = Share(self.cpus_per_worker, self.gpus_per_score_worker)
        drawing = self.gpus_per_worker
        if drawing is None:
            beside = scoring.gpus if self.score_workers and scoring.gpus < 1 else 0
            # Ray counts in four decimals.
            drawing = round(1 - beside, 4) if gpus else 0
        return Share(self.cpus_per_worker, drawing), scoring

    def check(self) -> None:
        _pool(self).check()

    @property
    def beside(self) -> Engine | None:
        if not self.score_workers:
            return None
        return replace(self, workers=self.score_workers, gpus_per_worker=self.gpus_per_score_worker, score_workers=0)

    def run(self, make_worker: Callable[[], Worker[Job, Result]], jobs: Sequence[Job]) -> Iterator[Result]:
        return _Dispatch(_pool(self), make_worker, jobs, self.retries).results()

    def close(self) -> None:
        _pool(self).close()


class Host:
    """The actor in a worker's process, which keeps the workers made there."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._made: dict[Any, Callable[[Any], Iterator[Any]]] = {}

    def ready(self) -> bool:
        return True

    def do(self, name: str, make_worker: Callable[[], Callable[[Any], Iterator[Any]]], job: Any) -> Iterator[Any]:
        # Ray passes a stored object by reference. Only the last few kinds of work are kept.
        if name not in self._made:
            while len(self._made) >= 4:
                self._made.pop(next(iter(self._made)))
            self._made[name] = make_worker()
        yield from self._made[name](job)


class Pool:
    """The workers of an engine in a Ray cluster: as many as fit, also when nodes join and leave."""

    def __init__(self, engine: RayEngine) -> None:
        self.ray = _ray(engine.address, engine.show_output)
        self.engine = engine
        raised = self.ray.exceptions
        # Errors of a call to a dead worker. Ray itself kills workers before a node runs out of memory.
        self.deaths: tuple[type[Exception], ...] = (
            raised.RayActorError,
            raised.OutOfMemoryError,
            raised.NodeDiedError,
            raised.WorkerCrashedError,
            raised.ObjectLostError,
        )
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: list[Any] = []
        self._looked = -LOOK
        self._lock = Lock()

    def room(self) -> int:
        """Return how many workers fit in the cluster after the scoring workers; at least one."""
        nodes, engine = self._nodes(), self.engine
        drawing, scoring = self._shares(nodes)
        count = drawers_beside(nodes, drawing, scoring, engine.score_workers)
        total = self.ray.cluster_resources()
        if not drawing.gpus and "memory" in total:
            count = min(count, int(total["memory"] / WORKER_MEMORY))
        return max(1, min(count, engine.workers or count))

    def check(self) -> None:
        """Raise ConfigError for workers that the cluster can't run at once.

        A joined cluster without room for any worker is accepted, since other machines may still join it.
        """
        nodes, engine = self._nodes(), self.engine
        drawing, scoring = self._shares(nodes)
        has = f"the cluster has {sum(node.cpus for node in nodes):g} cores and {sum(node.gpus for node in nodes)} GPUs"
        if not any(room(node, drawing) for node in nodes):
            if not engine.address:
                raise ConfigError(
                    f"engine: no room for a worker with {drawing}: {has}. Ask for less with engine.cpus_per_worker= "
                    "and engine.gpus_per_worker="
                )
        elif not drawers_beside(nodes, drawing, scoring, engine.score_workers):
            raise ConfigError(
                f"engine: no room for a drawing worker with {drawing} in addition to {engine.score_workers} scoring "
                f"workers with {scoring} each: {has}. Ask for less with engine.score_workers=, "
                "engine.gpus_per_score_worker=, engine.gpus_per_worker= or engine.cpus_per_worker="
            )

    def acquire(self) -> Any | None:
        """Return an idle worker, or None."""
        with self._lock:
            self._refresh()
            if not self._idle:
                return None
            worker = self._idle.pop()
            self._busy.append(worker)
            return worker

    def release(self, worker: Any) -> None:
        """Return a worker to the idle ones."""
        with self._lock:
            self._busy.remove(worker)
            self._idle.append(worker)

    def discard(self, worker: Any) -> None:
        """Forget a worker that died, and make sure that it is dead."""
        with self._lock:
            if worker in self._busy:
                self._busy.remove(worker)
            self.ray.kill(worker)

    @property
    def size(self) -> int:
        return len(self._idle) + len(self._busy)

    def close(self) -> None:
        with self._lock:
            # After a shutdown of Ray the workers are gone, and a request to kill one would start Ray anew.
            if self.ray.is_initialized():
                for worker in [*self._idle, *self._busy, *self._starting.values()]:
                    self.ray.kill(worker)
            self._idle, self._busy, self._starting = [], [], {}

    def _nodes(self) -> tuple[Node, ...]:
        found = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return tuple(Node(resources.get("CPU", 0), int(resources.get("GPU", 0))) for resources in found)

    def _shares(self, nodes: Sequence[Node]) -> tuple[Share, Share]:
        return self.engine.shares(sum(node.gpus for node in nodes))

    def _threads(self, nodes: Sequence[Node], share: Share) -> int:
        """Return a worker's number of threads: this process's, or less if a node has fewer cores per worker."""
        import torch

        scorers = math.ceil(self.engine.score_workers / max(1, len(nodes)))
        most = self.engine.workers or math.inf
        cores = [node.cpus / (min(count, most) + scorers) for node in nodes if (count := room(node, share))]
        return max(1, min(torch.get_num_threads(), int(min(cores, default=1))))

    def _refresh(self) -> None:
        """Start workers for which there is room, and collect those that have started."""
        if time.monotonic() - self._looked >= LOOK or not self.size:
            self._looked = time.monotonic()
            nodes = self._nodes()
            share, _ = self._shares(nodes)
            options: dict[str, Any] = {"num_cpus": share.cpus, "num_gpus": share.gpus}
            if not share.gpus and any(node.gpus for node in nodes):
                # Whether a worker without a GPU sees those of its node depends on Ray's version.
                options["runtime_env"] = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
            kind = self.ray.remote(**options)(Host)
            for _ in range(self.room() - self.size - len(self._starting)):
                worker = kind.remote(self._threads(nodes, share))
                self._starting[worker.ready.remote()] = worker
        if self._starting:
            ready, _ = self.ray.wait(list(self._starting), num_returns=len(self._starting), timeout=0)
            for reference in ready:
                worker = self._starting.pop(reference)
                try:
                    self.ray.get(reference)
                    self._idle.append(worker)
                except self.deaths:
                    self.ray.kill(worker)


class _Dispatch(Generic[Job, Result]):
    """The jobs that wait for or run on the workers of a pool."""

    def __init__(
        self, pool: Pool, make_worker: Callable[[], Worker[Job, Result]], jobs: Sequence[Job], retries: int
    ) -> None:
        self.pool, self.ray, self.retries = pool, pool.ray, retries
        self.make_worker = make_worker
        self.waiting: deque[tuple[Job, int]] = deque((job, 0) for job in jobs)
        self.running: dict[Any, tuple[Any, Job, int]] = {}

    def results(self) -> Iterator[Result]:
        # Put the function into the object store once, instead of sending it with every job.
        shared = self.ray.put(self.make_worker)
        name = shared.hex()
        started = time.monotonic()
        try:
            while self.waiting or self.running:
                while self.waiting and (worker := self.pool.acquire()):
                    job, deaths = self.waiting.popleft()
                    stream = worker.do.options(num_returns="streaming").remote(name, shared, job)
                    self.running[stream] = (worker, job, deaths)
                if not self.running:
                    self._refuse_to_wait(started)
                    time.sleep(0.05)
                    continue
                # Wait briefly while jobs are left for a worker that may be starting.
                ready, _ = self.ray.wait(list(self.running), timeout=0.2 if self.waiting else LOOK)
                for stream in ready:
                    yield from self._next(stream)
        finally:
            # After an early exit, by an error or a signal, the running jobs are of no use.
            for worker, _, _ in self.running.values():
                self.pool.discard(worker)

    def _next(self, stream: Any) -> Iterator[Result]:
        worker, job, _ = self.running[stream]
        try:
            reference = next(stream, None)
            if reference is None:
                del self.running[stream]
                self.pool.release(worker)
                return
            result = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, WorkerBroken):
                del self.running[stream]
                self.pool.discard(worker)
                # A user error is one line, without the worker's traceback.
                raise (error.cause if isinstance(error.cause, UserError | OSError) else error) from None
            self._died(stream, str(error.cause))
        except self.pool.deaths as error:
            self._died(stream, first_line(error))
        else:
            # The job makes progress, so its deaths are counted from 0 again.
            self.running[stream] = (worker, job, 0)
            yield result

    def _died(self, stream: Any, reason: str) -> None:
        worker, job, deaths = self.running.pop(stream)
        self.pool.discard(worker)
        if deaths < self.retries:
            self.waiting.append((job, deaths + 1))
        else:
            name = textwrap.shorten(str(job), 160, placeholder=" ...")
            tqdm.write(
                f"knowcusbench: {name}: left out because {deaths + 1} workers died doing it ({reason})", file=sys.stderr
            )

    def _refuse_to_wait(self, started: float) -> None:
        limit = self.pool.engine.start_seconds
        if not self.pool.size and time.monotonic() - started > limit:
            share, _ = self.pool._shares(self.pool._nodes())
            raise RunError(
                f"engine: no worker with {share} started within {limit:g} s; the cluster has "
                f"{self.ray.cluster_resources().get('CPU', 0):g} cores and "
                f"{self.ray.cluster_resources().get('GPU', 0):g} GPUs. Ask for less with engine.cpus_per_worker= and "
                "engine.gpus_per_worker=, or wait longer with engine.start_seconds="
            )


def carried_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of a command that its workers on other machines need too.

    These say where the hub's files are, and how torch and its kernels compute. Possible secrets are never passed on:
    Ray writes the variables to its logs.

    >>> carried_variables({"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_abc", "EDITOR": "vi"})
    {'HF_HUB_OFFLINE': '1'}
    """
    return {
        name: os.path.abspath(os.path.expanduser(value)) if PATH.search(name) else value
        for name, value in environment.items()
        if CARRIED.match(name) and not SECRET.search(name) and "@" not in value
    }


@lru_cache(maxsize=8)
def _pool(engine: RayEngine) -> Pool:
    pool = Pool(engine)
    atexit.register(pool.close)
    return pool


@lru_cache(maxsize=1)
def _ray(address: str | None, show_output: bool) -> Any:
    """Return Ray, connected to its cluster. Raises ConfigError if Ray is not installed or there is no cluster."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("engine=ray needs Ray: pip install 'knowcusbench[cluster]'") from error
    if not ray.is_initialized():
        # A Ray started here has this process's environment and working directory.
        joins = {"address": address, "runtime_env": {"env_vars": carried_variables(os.environ)}}
        # Without "local" Ray would join whatever cluster was last started on this machine, or wait for a dead one.
        options: dict[str, Any] = joins if address else {"address": "local", "include_dashboard": False}
        try:
            ray.init(**options, log_to_driver=show_output, logging_level="ERROR", configure_logging=True)
        except ConnectionError as error:
            raise ConfigError(
                f"engine.address: no Ray cluster at {address!r}; start one with `ray start --head`, or leave it null "
                "to start Ray on this machine"
            ) from error
    return ray
