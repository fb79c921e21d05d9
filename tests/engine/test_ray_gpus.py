"""Ray's workers in a cluster that declares GPUs to Ray and was not started in the command's directory."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from knowcusbench.cli.main import main
from knowcusbench.engine.ray import RayEngine
from knowcusbench.errors import ConfigError

ENGINE = RayEngine(cpus_per_worker=0.5, score_workers=2, gpus_per_score_worker=0.25, start_seconds=120)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The directory where the cluster was started, and the one where the command runs."""
    return tmp_path_factory.mktemp("cluster"), tmp_path_factory.mktemp("command")


@pytest.fixture(scope="module", autouse=True)
def address(folders: tuple[Path, Path]) -> Iterator[str]:
    """A cluster of one node with two GPUs, which this process has joined."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folders[0])
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2, "include_dashboard": False}
        )
        patch.chdir(folders[1])
        patch.setenv("HF_HOME", "hub")
        patch.setenv("HF_TOKEN", "hf_secret")
        patch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        replace(ENGINE, address=cluster.address).check()
        yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def seen():
    """A worker that yields its process, its GPUs as seen by Ray and by CUDA, and its threads."""

    def make():
        def work(job):
            yield os.getpid(), ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES"), torch.get_num_threads()

        return work

    return make


def test_scoring_workers_find_room_beside_those_that_draw(seen, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    ENGINE.check()
    assert ENGINE.parallelism == 2
    with closing(ENGINE), closing(ENGINE.beside) as beside:
        drawing = {found[0]: found for found in ENGINE.run(seen, range(8))}
        scoring = {found[0]: found for found in beside.run(seen, range(8))}
    assert {tuple(gpus) for _, gpus, _, _ in drawing.values()} <= {(0,), (1,)}
    assert {visible for _, _, visible, _ in scoring.values()} <= {"0", "1"}
    assert not drawing.keys() & scoring.keys()
    # Four cores for two drawing and two scoring workers.
    assert {threads for *_, threads in drawing.values()} == {1}


def test_a_worker_without_gpus_sees_none(seen) -> None:
    with closing(replace(ENGINE, gpus_per_score_worker=0, workers=1).beside) as beside:
        ((_, gpus, visible, _),) = beside.run(seen, [0])
    assert (gpus, visible) == ([], "")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"score_workers": 5, "gpus_per_score_worker": 0.5},
            "no room for a drawing worker with 0.5 cores and 0.5 GPUs in addition to 5 scoring workers with 0.5 "
            "cores and 0.5 GPUs each: the cluster has 4 cores and 2 GPUs",
        ),
        (
            {"score_workers": 8, "gpus_per_score_worker": 0},
            "in addition to 8 scoring workers with 0.5 cores and 0 GPUs each",
        ),
        ({"gpus_per_worker": 3}, "no room for a worker with 0.5 cores and 3 GPUs: the cluster has 4 cores and 2 GPUs"),
    ],
)
def test_what_has_no_room_is_refused_at_once(settings, words) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(ENGINE, **settings).check()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_joined_worker_has_the_commands_environment_without_its_secrets(address: str, folders) -> None:
    def environment():
        def work(job):
            yield os.getcwd(), {name: os.environ.get(name) for name in job}

        return work

    with closing(replace(ENGINE, workers=1)) as engine:
        names = ("HF_HOME", "HF_TOKEN", "PYTORCH_CUDA_ALLOC_CONF")
        ((folder, found),) = engine.run(environment, [names])
    assert Path(folder) != folders[1]
    assert found == {
        "HF_HOME": str(folders[1] / "hub"),
        "HF_TOKEN": None,
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }


def test_a_command_with_relative_paths_finds_what_its_workers_made(
    address: str, folders, miniature: Path, sample_benchmark: Path, monkeypatch
) -> None:
    monkeypatch.chdir(folders[1])
    Path("model").symlink_to(miniature)
    Path("photos").symlink_to(sample_benchmark)
    sources = ("backbone.source=model", "benchmark=directory", "benchmark.path=photos", "grid.concepts=[d*]")
    places = ("run.root=runs", "run.name=run", "cache_dir=cache")
    engine = ("engine=ray", f"engine.address={address}", "engine.workers=1", "device=cpu")
    main(["adapt", "method=base", "metrics=[]", *sources, *places, *engine])
    made = folders[1] / "runs/run"
    assert list((made / "adaptations/base").iterdir())
    assert (made / "weights.json").exists()
    assert not list(folders[0].rglob("*/adaptations"))
