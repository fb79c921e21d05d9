"""The split of cores and GPUs: the count is checked against trying all splits."""

from itertools import product
from types import SimpleNamespace

import pytest

from knowcusbench.engine import ray as ray_engine
from knowcusbench.engine.placement import Node, Share, drawers_beside, room
from knowcusbench.engine.ray import RayEngine
from knowcusbench.errors import ConfigError


def fits(node: Node, workers: list[Share]) -> bool:
    """Return whether a node has room for these workers, each on the fullest GPU with room, as Ray places them."""
    cores, free = round(node.cpus * 100), [100] * node.gpus
    for worker in workers:
        cores -= round(worker.cpus * 100)
        need = round(worker.gpus * 100)
        for part in [100] * (need // 100) if need > 100 else [need] * bool(need):
            places = [index for index, left in enumerate(free) if left >= part]
            if not places:
                return False
            free[min(places, key=free.__getitem__)] -= part
    return cores >= 0


@pytest.mark.parametrize("gpus", [0, 0.25, 0.3, 0.5, 0.6, 1, 2])
@pytest.mark.parametrize("scoring", [0, 0.1, 0.25, 0.4, 0.75, 1])
def test_so_many_workers_fit_and_no_more(gpus: float, scoring: float) -> None:
    drawer, scorer = Share(1, gpus), Share(0.5, scoring)
    for node, scorers in product([Node(1, 2), Node(4, 2), Node(8, 3), Node(3, 0)], range(4)):
        possible = [
            count
            for count in range(1, 9)
            if fits(node, [drawer] * count) and fits(node, [drawer] * count + [scorer] * scorers)
        ]
        assert drawers_beside([node], drawer, scorer, scorers) == max(possible, default=0), (node, scorers)


def test_several_nodes_share_the_scorers() -> None:
    two = [Node(8, 2), Node(8, 2)]
    drawer, quarter = Share(1, 0.75), Share(1, 0.25)
    assert [room(node, drawer) for node in two] == [2, 2]
    assert [drawers_beside(two, drawer, quarter, count) for count in (0, 4, 5, 7, 8, 13, 14)] == [4, 4, 3, 3, 2, 1, 0]
    assert drawers_beside([], drawer, quarter, 0) == 0


@pytest.mark.parametrize(
    ("settings", "gpus", "drawing", "scoring"),
    [
        ({}, 8, 1, 0),
        ({}, 0, 0, 0),
        ({"score_workers": 2, "gpus_per_score_worker": 0.25}, 8, 0.75, 0.25),
        ({"score_workers": 2, "gpus_per_score_worker": 0.3}, 8, 0.7, 0.3),
        ({"score_workers": 0, "gpus_per_score_worker": 0.25}, 8, 1, 0.25),
        ({"score_workers": 2, "gpus_per_score_worker": 1}, 8, 1, 1),
        ({"score_workers": 2, "gpus_per_score_worker": 0.25, "gpus_per_worker": 1}, 8, 1, 0.25),
        ({"score_workers": 2}, 8, 1, 0),
        ({"score_workers": 2, "gpus_per_score_worker": 0.25}, 0, 0, 0.25),
    ],
)
def test_a_drawing_worker_takes_what_a_scoring_worker_leaves_of_a_gpu(
    settings: dict[str, float], gpus: int, drawing: float, scoring: float
) -> None:
    shares = RayEngine(**settings).shares(gpus)
    assert [share.gpus for share in shares] == [drawing, scoring]


@pytest.mark.parametrize("key", ["gpus_per_worker", "gpus_per_score_worker"])
def test_one_gpu_and_a_half_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"engine\.{key}: expected a part of a GPU or a whole number, found 1\.5"):
        RayEngine(**{key: 1.5})


@pytest.mark.parametrize(("address", "joined"), [(None, "local"), ("auto", "auto"), ("10.0.0.1:6379", "10.0.0.1:6379")])
def test_without_an_address_ray_starts_here_whatever_cluster_was_left(address, joined, monkeypatch) -> None:
    asked = {}
    ray = SimpleNamespace(is_initialized=lambda: False, init=asked.update)
    monkeypatch.setitem(__import__("sys").modules, "ray", ray)
    ray_engine._ray.__wrapped__(address, False)
    assert asked["address"] == joined
    assert ("runtime_env" in asked) == (address is not None)
