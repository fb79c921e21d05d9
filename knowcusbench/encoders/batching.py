"""Batches of one size, so that a result does not depend on the rest of its batch, halved if memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from knowcusbench.errors import ConfigError, MetricError
from knowcusbench.machine.device import resolve_device

if TYPE_CHECKING:
    import torch

MIN_BATCH = 8
"""Smallest batch on the CPU. Fewer rows use other kernels, whose last bits differ: up to five of them, by model and
processor. Batches of any size from eight up agree."""

T = TypeVar("T")


class PaddedBatches:
    """Runs an encoder in batches whose results do not depend on the rest of the batch.

    A batch is padded to a size at which a result is the same to its last bit in any batch: a GPU's kernels depend on
    the size of a batch, a processor's only for very small ones. If a batch does not fit into memory, it and all later
    batches are halved. Raises ConfigError for a size that is not positive.

    Attributes:
        size: the present batch size, halved whenever memory ran out.
    """

    def __init__(self, size: int, device: str) -> None:
        if size < 1:
            raise ConfigError(f"batch_size: {size} is not a positive number")
        self.size = size
        self._device = resolve_device(device)
        self._on_gpu = self._device.type == "cuda"

    def run(self, compute: Callable[[list[T]], Any], values: Sequence[T]) -> Iterator[Any]:
        """Yield the results of `compute` for consecutive batches of `values`, without those of the padding.

        Raises MetricError if even the smallest batch does not fit into memory.
        """
        from knowcusbench.machine.out_of_memory import free_memory, is_out_of_memory

        start, least = 0, 1 if self._on_gpu else MIN_BATCH
        while start < len(values):
            batch = values[start : start + self.size]
            try:
                computed = compute(padded(batch, self.size if self._on_gpu else MIN_BATCH))[: len(batch)]
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.size <= least:
                    what = f"a batch of {max(len(batch), least)} images or texts"
                    raise _out_of_memory(self._device, what) from error
            else:
                start += len(batch)
                yield computed
                continue
            # Outside `except`: the exception keeps the tensors that filled the memory alive.
            self.size = max(least, self.size // 2)
            free_memory()


def retry_out_of_memory(compute: Callable[[], T], device: torch.device, what: str) -> T:
    """Return `compute()` for work that can't be halved; if memory runs out, free memory and try once more.

    Args:
        what: the work's name in the message.

    Raises MetricError if memory runs out again.
    """
    from knowcusbench.machine.out_of_memory import free_memory, is_out_of_memory

    try:
        return compute()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Outside `except`: the exception keeps the tensors that filled the memory alive.
    free_memory()
    try:
        return compute()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise _out_of_memory(device, what) from error


def _out_of_memory(device: torch.device, what: str) -> MetricError:
    return MetricError(
        f"no memory is left on {device} for {what}; score with a command of its own (knowcusbench score), on a larger "
        "device or with device=cpu"
    )


def batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield consecutive parts of at most `size` values.

    >>> list(batches([1, 2, 3, 4, 5], 2))
    [[1, 2], [3, 4], [5]]
    """
    for start in range(0, len(values), size):
        yield values[start : start + size]


def padded(batch: Sequence[T], size: int) -> list[T]:
    """Pad a batch to at least `size` values by repeating its last one.

    >>> padded([1, 2], 4)
    [1, 2, 2, 2]
    """
    return [*batch, *[batch[-1]] * (size - len(batch))]
