"""Batches of one size, so that a result does not depend on its company, and in halves where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from knowcusbench.errors import ConfigError, MetricError
from knowcusbench.machine.device import resolve_device

if TYPE_CHECKING:
    import torch

LEAST = 8
"""On the CPU fewer rows go through other kernels, whose last bits differ: up to five of them, by model and processor.
Batches of any size from eight up agree."""

T = TypeVar("T")


class FilledBatches:
    """How an encoder computes batches.

    A batch has at least so many values that a result is the same to its last bit in whatever batch it is computed: a
    GPU's kernels depend on the size of a batch, a processor's only for very small ones. Where memory has no room for a
    batch, it is computed in halves, and so are those after it. Raises ConfigError for a size that is not positive.

    Attributes:
        size: the largest batch that there was room for.
    """

    def __init__(self, size: int, device: str) -> None:
        if size < 1:
            raise ConfigError(f"batch_size: {size} is not a positive number")
        self.size = size
        self._device = resolve_device(device)
        self._on_gpu = self._device.type == "cuda"

    def run(self, compute: Callable[[list[T]], Any], values: Sequence[T]) -> Iterator[Any]:
        """What `compute` gives of consecutive batches of `values`, cut to the values that are in them.

        Raises MetricError if the smallest batch finds no memory.
        """
        from knowcusbench.machine.out_of_memory import free_memory, is_out_of_memory

        start, least = 0, 1 if self._on_gpu else LEAST
        while start < len(values):
            batch = values[start : start + self.size]
            try:
                computed = compute(filled(batch, self.size if self._on_gpu else LEAST))[: len(batch)]
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.size <= least:
                    what = f"a batch of {max(len(batch), least)} images or texts"
                    raise _no_room(self._device, what) from error
            else:
                start += len(batch)
                yield computed
                continue
            # Not while the exception holds on to what filled the memory.
            self.size = max(least, self.size // 2)
            free_memory()


def in_room(compute: Callable[[], T], device: torch.device, what: str) -> T:
    """What `compute` gives of what can't be halved; it is tried once more after room was made.

    Args:
        what: that is computed, for the message.

    Raises MetricError if there is no memory for it.
    """
    from knowcusbench.machine.out_of_memory import free_memory, is_out_of_memory

    try:
        return compute()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Not while the exception holds on to what filled the memory.
    free_memory()
    try:
        return compute()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise _no_room(device, what) from error


def _no_room(device: torch.device, what: str) -> MetricError:
    return MetricError(
        f"no memory is left on {device} for {what}; score with a command of its own (knowcusbench score), on a larger "
        "device or with device=cpu"
    )


def batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive parts of at most `size` values."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def filled(batch: Sequence[T], size: int) -> list[T]:
    """A batch of at least `size` values: its last one is repeated."""
    return [*batch, *[batch[-1]] * (size - len(batch))]
