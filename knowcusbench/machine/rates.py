"""Measured peak rates of a device, which times are compared with."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import lru_cache

import torch

REPEATS = 10
"""Number of back-to-back operations in one measurement."""

SLOW_SECONDS = 0.1
"""Seconds from which on a product is not repeated many times: its dtype is emulated."""

ROUNDS, ENOUGH_SECONDS = 8, 0.1
"""Limits of a short measurement: this many rounds, or two or more that have lasted this many seconds."""


def seconds(work: Callable[[], object], device: torch.device | None = None) -> float:
    """Return the wall-clock seconds of a call, kernels on `device` included."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median of `repeats` calls, after one warm-up call."""
    work()
    return statistics.median(seconds(work, device) for _ in range(repeats))


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations per second of a large square matrix product."""
    width = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    emulated = median_seconds(lambda: left @ right, device, repeats=2)
    if emulated > SLOW_SECONDS:
        return 2 * width**3 / emulated
    # Back to back, as in a model: a launch overlaps with the previous product.
    return REPEATS * 2 * width**3 / median_seconds(lambda: [left @ right for _ in range(REPEATS)], device, repeats=5)


@lru_cache
def product_rates(device: torch.device) -> Mapping[torch.dtype, float]:
    """Measure the floating-point operations per second of a square product in fp32 and in bf16, once a process.

    This takes some ten milliseconds, or a quarter of a second where bf16 is emulated. The dtypes take turns and the
    best time of each counts, because another program on the same cores slows single products. On the CPU the matrices
    are as small as the miniature's; large ones gain up to half more in bf16.
    """
    width = 8192 if device.type == "cuda" else 320
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(width, width, device=device, generator=generator) for _ in range(2))
    pairs = {dtype: (left.to(dtype), right.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    taken = {dtype: [seconds(lambda: one @ other, device)] for dtype, (one, other) in pairs.items()}  # noqa: B023
    started = time.perf_counter()
    while len(taken[torch.float32]) <= ROUNDS:
        if len(taken[torch.float32]) > 2 and time.perf_counter() - started > ENOUGH_SECONDS:
            break
        for dtype, (one, other) in pairs.items():
            taken[dtype].append(seconds(lambda: one @ other, device))  # noqa: B023
    # The first product also compiles or loads the kernels.
    return {dtype: 2 * width**3 / min(times[1:]) for dtype, times in taken.items()}


def rates_in_words(device: torch.device) -> str:
    """Return `product_rates` as text, such as "fp32 155, bf16 1,010 GFLOP/s"."""
    rates = product_rates(device)
    named = {"fp32": rates[torch.float32], "bf16": rates[torch.bfloat16]}
    return ", ".join(f"{name} {rate / 1e9:,.{0 if rate > 1e10 else 2}f}" for name, rate in named.items()) + " GFLOP/s"


def copy_bandwidth(device: torch.device) -> float:
    """Measure the bytes per second that a copy within the device's memory reads and writes."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device, REPEATS)


def _wait(device: torch.device | None) -> None:
    if device and device.type == "cuda":
        torch.cuda.synchronize(device)
