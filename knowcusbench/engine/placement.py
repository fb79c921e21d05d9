"""The number of workers that fit in a cluster, with its cores and GPUs split between drawing and scoring."""

from collections.abc import Sequence
from dataclasses import dataclass

UNITS = 10_000
"""Number of parts of a core or GPU. Ray counts in these, and whole numbers add up exactly."""


@dataclass(frozen=True)
class Share:
    """The resources of one worker: processor cores, and a part of a GPU or whole GPUs."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} cores and {self.gpus:g} GPUs"


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, with its processor cores and GPUs."""

    cpus: float
    gpus: int


def room(node: Node, share: Share) -> int:
    """Return how many workers with this share fit on a node.

    >>> room(Node(cpus=8, gpus=2), Share(cpus=1, gpus=0.5))
    4
    """
    return _scorers(node, share, 0, share)


def drawers_beside(nodes: Sequence[Node], drawing: Share, scoring: Share, scorers: int) -> int:
    """Return the largest number of drawing workers that leaves room for all `scorers`; 0 if there is none.

    Ray gives a worker the fullest GPU that has room for it. So drawing workers are counted from the first GPU on, and
    scoring workers take the rest.

    >>> drawers_beside([Node(cpus=8, gpus=2)], Share(1, 0.75), Share(1, 0.25), scorers=2)
    2
    """
    drawers = [room(node, drawing) for node in nodes]
    while drawers and sum(drawers) > 0:
        places = [_scorers(node, drawing, count, scoring) for node, count in zip(nodes, drawers, strict=True)]
        if sum(places) >= scorers:
            break
        # Take the node where one drawing worker less makes most room for scorers; among equals, the busiest node.
        gains = [
            (_scorers(node, drawing, count - 1, scoring) - there if count else -1, count)
            for node, count, there in zip(nodes, drawers, places, strict=True)
        ]
        drawers[gains.index(max(gains))] -= 1
    return sum(drawers)


def _scorers(node: Node, drawing: Share, drawers: int, scoring: Share) -> int:
    """Return how many workers with the share `scoring` fit on a node with `drawers` drawing workers."""
    free = [UNITS] * node.gpus
    need, size = _parts(drawing.gpus), _parts(scoring.gpus)
    for _ in range(drawers if need else 0):
        taken = -(-need // UNITS)
        for index in [index for index, left in enumerate(free) if left >= min(need, UNITS)][:taken]:
            free[index] -= min(need, UNITS)
    by_cores = (_parts(node.cpus) - drawers * _parts(drawing.cpus)) // _parts(scoring.cpus)
    if not size:
        return int(by_cores)
    whole = sum(left == UNITS for left in free) * UNITS // size
    by_gpus = sum(left // size for left in free) if size <= UNITS else whole
    return int(min(by_cores, by_gpus))


def _parts(number: float) -> int:
    return round(number * UNITS)
