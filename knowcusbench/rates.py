"""What a device can do at best, measured: the floor that times are compared with."""

import statistics
import time
from collections.abc import Callable

import torch

REPEATS = 10


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of a call, kernels included."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median of `repeats` calls, after one that is not counted."""
    work()
    return statistics.median(seconds(work, device) for _ in range(repeats))


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large square matrix product."""
    width = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    # Back to back, as in a model: launches overlap with the product before.
    return REPEATS * 2 * width**3 / median_seconds(lambda: [left @ right for _ in range(REPEATS)], device, repeats=5)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy within the device's memory reads and writes."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device, REPEATS)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
