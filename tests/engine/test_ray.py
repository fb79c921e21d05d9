"""Ray's workers finish all jobs, whichever of them die."""

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from knowcusbench.engine import ray as ray_engine
from knowcusbench.engine.base import WorkerBroken
from knowcusbench.engine.local import LocalEngine
from knowcusbench.engine.ray import RayEngine
from knowcusbench.errors import ConfigError, MethodError, RunError

WORKERS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster whose first node has no cores for workers."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> Iterator[RayEngine]:
    """Two workers on one node."""
    cluster.add_node(num_cpus=1)
    engine = RayEngine(address=cluster.address, cpus_per_worker=0.5, start_seconds=120)
    yield engine
    engine.close()


def squares():
    """A worker that yields a number and its square, slowly."""

    def work(job):
        yield job
        time.sleep(0.01)
        yield job * job

    return work


def test_it_gives_what_the_local_engine_gives(engine):
    jobs = list(range(30))
    expected = sorted(LocalEngine().run(squares, jobs))
    assert engine.parallelism == WORKERS
    assert sorted(engine.run(squares, jobs)) == expected
    assert list(engine.run(squares, [])) == []


def test_there_are_no_more_workers_than_memory_for_them(engine, monkeypatch):
    monkeypatch.setattr(ray_engine, "WORKER_MEMORY", ray.cluster_resources()["memory"] / 1.5)
    assert engine.parallelism == 1


def test_workers_live_on_and_share_the_work(engine):
    def make_pids():
        def work(job):
            time.sleep(0.2)
            yield os.getpid()

        return work

    first, second = set(engine.run(make_pids, range(8))), set(engine.run(make_pids, range(8)))
    assert len(first) == WORKERS
    assert first == second
    assert os.getpid() not in first


def test_a_short_job_does_not_wait_for_a_long_one(engine):
    def make_sleepers():
        def work(job):
            time.sleep(job)
            yield job

        return work

    assert list(engine.run(make_sleepers, [2.0, 0.1, 0.1, 0.1])) == [0.1, 0.1, 0.1, 2.0]


def test_a_job_whose_worker_dies_is_done_by_another(engine, tmp_path):
    def make_mortals():
        def work(job):
            marker = tmp_path / str(job)
            if job % 3 == 0 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield job

        return work

    assert sorted(engine.run(make_mortals, range(9))) == list(range(9))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_worker_that_is_killed_from_outside_is_replaced(engine):
    def make_pids():
        def work(job):
            for _ in range(3):
                time.sleep(0.2)
                yield job, os.getpid()

        return work

    seen, killed = [], 0
    for job, pid in engine.run(make_pids, range(6)):
        seen.append(job)
        if killed < 2 and len(seen) in (3, 7):
            psutil.Process(pid).kill()
            killed += 1
    assert killed == 2
    assert set(seen) == set(range(6))


def test_a_job_that_kills_every_worker_is_left_out(engine, capsys):
    def make_poisoned():
        def work(job):
            if job == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield job

        return work

    assert sorted(engine.run(make_poisoned, range(4))) == [0, 2, 3]
    assert "knowcusbench: 1: left out because 3 workers died doing it" in capsys.readouterr().err


def test_a_broken_worker_is_replaced(engine, tmp_path):
    def make_fragile():
        def work(job):
            if not (tmp_path / "broken").exists():
                (tmp_path / "broken").write_text(str(os.getpid()))
                raise WorkerBroken("the GPU fell off")
            yield os.getpid()

        return work

    pids = set(engine.run(make_fragile, range(4)))
    broken = int((tmp_path / "broken").read_text())
    assert broken not in pids
    assert not psutil.pid_exists(broken)


@pytest.mark.parametrize(
    "error", [MethodError("concept 'dog': too few images"), OSError(28, "No space left on device")]
)
def test_a_users_mistake_arrives_as_it_was_raised(engine, error):
    def make_mistaken():
        def work(job):
            yield job
            raise error

        return work

    with pytest.raises(type(error)) as caught:
        list(engine.run(make_mistaken, range(4)))
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert sorted(engine.run(squares, [3])) == [3, 9]


def test_a_bug_shows_where_it_is(engine):
    def make_buggy():
        def work(job):
            yield 1 / job

        return work

    with pytest.raises(ZeroDivisionError, match="in work"):
        list(engine.run(make_buggy, [0]))


def test_a_node_that_is_removed_and_one_that_is_added(cluster, engine, tmp_path):
    """Of two nodes one is removed midway, and all jobs are done. Then a node is added, and there are more workers.

    Jobs are slow until the second node has worked: how long its workers take to start depends on the machine.
    """
    removed = tmp_path / "removed"
    node = cluster.add_node(num_cpus=1)
    wait_for(lambda: engine.parallelism == 2 * WORKERS)

    def make_located():
        def work(job):
            time.sleep(0 if removed.exists() else 0.3)
            yield job, ray.get_runtime_context().get_node_id()

        return work

    done, nodes = [], set()
    for job, where in engine.run(make_located, range(600)):
        done.append(job)
        nodes.add(where)
        if node and len(nodes) == 2:
            cluster.remove_node(node, allow_graceful=False)
            node = None
            removed.touch()
    assert node is None, "both nodes worked"
    assert sorted(set(done)) == list(range(600))
    wait_for(lambda: engine.parallelism == WORKERS)


def wait_for(condition):
    """Ray notices nodes only after a while."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_no_node_has_is_one_line(cluster):
    greedy = RayEngine(address=cluster.address, cpus_per_worker=64, start_seconds=0.5)
    with pytest.raises(
        RunError, match=r"no worker with 64 cores and 0 GPUs started within 0\.5 s; the cluster has 1 cores"
    ):
        list(greedy.run(squares, [1]))
    greedy.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "engine.workers: expected at least 1, found 0"),
        ({"cpus_per_worker": 0}, "engine.cpus_per_worker: expected more than 0"),
        ({"retries": -1}, "engine.retries: expected at least 0"),
    ],
)
def test_a_wrong_number_is_one_line(settings, message):
    with pytest.raises(ConfigError, match=message):
        RayEngine(**settings)


def test_without_ray_the_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'knowcusbench\[cluster\]'"):
        ray_engine._ray.__wrapped__("auto", False)
