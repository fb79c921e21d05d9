"""Wall-clock time and peak memory of a block of code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from knowcusbench.adapters.types import Cost

if TYPE_CHECKING:
    import torch


@dataclass
class Meter:
    """The cost of a measured block, complete once the block has ended.

    Attributes:
        cost: the block's cost, charged seconds included.
        charged: seconds of reused earlier work (cached class images) added to this block.
    """

    cost: Cost = field(default_factory=Cost)
    charged: float = 0.0

    def charge(self, seconds: float) -> None:
        """Add the original cost of a cached result, so that the reported cost does not depend on who computed it
        first."""
        self.charged += seconds


@contextmanager
def measured(stage: str, device: torch.device) -> Iterator[Meter]:
    """Measure a block: `with measured("visual", device) as meter: ...`, then `meter.cost`.

    On a GPU, the peak is the memory that torch allocated, and the block waits for the kernels it launched. On the CPU,
    it is the highest resident set of the process during the block. Where the system can't reset that mark (outside
    Linux), it is the highest since the process began.
    """
    import torch  # before the clock starts

    meter = Meter()
    _reset_peak(device)
    started = time.perf_counter()
    yield meter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    meter.cost = Cost({stage: time.perf_counter() - started + meter.charged}, _peak(device))


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Linux: 5 resets the peak resident set (proc(5)).
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)
