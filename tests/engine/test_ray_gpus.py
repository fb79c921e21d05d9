"""Ray's workers in a cluster that has GPUs, as far as Ray is told."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import ray
import torch

from knowcusbench.engine.ray_engine import RayEngine
from knowcusbench.errors import ConfigError

ENGINE = RayEngine(cpus_per_worker=0.5, score_workers=2, gpus_per_score_worker=0.25, start_seconds=120)


@pytest.fixture(scope="module", autouse=True)
def two_gpus() -> Iterator[None]:
    ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


def seen():
    """A worker that yields its process, its GPUs as Ray and as CUDA have them, and its threads."""

    def work(job):
        yield os.getpid(), ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES"), torch.get_num_threads()

    return work


def test_scoring_workers_find_room_beside_those_that_draw(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    ENGINE.check()
    assert ENGINE.parallelism == 2
    with closing(ENGINE), closing(ENGINE.beside) as beside:
        drawing = {found[0]: found for found in ENGINE.run(seen, range(8))}
        scoring = {found[0]: found for found in beside.run(seen, range(8))}
    assert {tuple(gpus) for _, gpus, _, _ in drawing.values()} <= {(0,), (1,)}
    assert {visible for _, _, visible, _ in scoring.values()} <= {"0", "1"}
    assert not drawing.keys() & scoring.keys()
    # Four cores, two drawing and two scoring workers.
    assert {threads for *_, threads in drawing.values()} == {1}


def test_a_worker_without_gpus_sees_none(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with closing(replace(ENGINE, gpus_per_score_worker=0, workers=1).beside) as beside:
        ((_, gpus, visible, _),) = beside.run(seen, [0])
    assert (gpus, visible) == ([], "")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"score_workers": 5, "gpus_per_score_worker": 0.5},
            "no room for a drawing worker with 0.5 cores and 0.5 GPUs beside 5 scoring workers with 0.5 cores and 0.5 "
            "GPUs each: the cluster has 4 cores and 2 GPUs",
        ),
        ({"score_workers": 8, "gpus_per_score_worker": 0}, "beside 8 scoring workers with 0.5 cores and 0 GPUs each"),
        ({"gpus_per_worker": 3}, "no room for a worker with 0.5 cores and 3 GPUs: the cluster has 4 cores and 2 GPUs"),
    ],
)
def test_what_has_no_room_is_refused_at_once(settings, words) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(ENGINE, **settings).check()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
