"""Freeing GPU memory for metric encoders when the backbone is on the same GPU."""

from collections.abc import Iterable

from knowcusbench.backbone.base import resident
from knowcusbench.metrics.base import Metric
from knowcusbench.metrics.memory import scoring_bytes

WORKSPACE = 2**30
"""Bytes of GPU memory that kernels need in addition to weights and activations."""


def make_room(metrics: Iterable[Metric]) -> None:
    """Unload this process's backbone if it leaves too little GPU memory for the encoders of these metrics.

    The backbone is loaded again when it is needed.
    """
    if not resident.cache_info().currsize:
        return
    import torch

    from knowcusbench.machine.out_of_memory import free_memory

    if torch.cuda.is_available():
        free_memory()
        if torch.cuda.mem_get_info()[0] < scoring_bytes(metrics) + WORKSPACE:
            resident.cache_clear()
            free_memory()
