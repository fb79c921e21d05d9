"""The fast dtype of a device: by measured products on a CPU, by its support on a GPU."""

import os
import platform
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
import torch

from knowcusbench.machine.device import fast_dtype
from knowcusbench.machine.rates import product_rates, rates_in_words

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("fp32", "bf16", "dtype"),
    [
        (155e9, 1000e9, "bfloat16"),
        (75e9, 1.2e9, "float32"),
        # Near a tie the other operations decide, which are slower in bf16.
        (100e9, 125e9, "bfloat16"),
        (100e9, 124e9, "float32"),
    ],
)
def test_a_processor_goes_by_what_was_measured(monkeypatch, fp32, bf16, dtype) -> None:
    monkeypatch.setattr(
        "knowcusbench.machine.rates.product_rates", lambda _: {torch.float32: fp32, torch.bfloat16: bf16}
    )
    assert fast_dtype(CPU) == dtype


@pytest.mark.parametrize(("has_it", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_goes_by_what_it_has_and_does_not_emulate(monkeypatch, has_it, dtype) -> None:
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has_it)
    assert fast_dtype(torch.device("cuda", 0)) == dtype


def test_another_kind_of_device_computes_in_fp32() -> None:
    assert fast_dtype(torch.device("meta")) == "float32"


def test_a_short_measurement_agrees_with_a_long_one() -> None:
    """Measures other shapes, in total instead of the best time; only where the processor is far from a tie."""

    def taken(dtype: torch.dtype) -> float:
        left, right = torch.ones(300, 448, dtype=dtype), torch.ones(448, 300, dtype=dtype)
        left @ right
        started = time.process_time()
        for _ in range(10):
            left @ right
        return time.process_time() - started

    ratio = taken(torch.float32) / taken(torch.bfloat16)
    if 0.6 < ratio < 2:
        pytest.skip(f"bf16 is {ratio:.2f} times as fast as fp32 here")
    assert fast_dtype(CPU) == ("bfloat16" if ratio > 1 else "float32")


def test_measuring_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    product_rates.cache_clear()
    assert min(product_rates(CPU).values()) > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of this kind of processor")
def test_a_processor_that_emulates_bf16_takes_fp32() -> None:
    """Runs with AVX2 instructions only."""
    said = "import torch; from knowcusbench.machine.device import fast_dtype; print(fast_dtype(torch.device('cpu')))"
    only = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", said], env=os.environ | only, capture_output=True, text=True)
    assert done.stdout == "float32\n", done.stderr


def test_rates_in_words(monkeypatch) -> None:
    monkeypatch.setattr(
        "knowcusbench.machine.rates.product_rates", lambda _: {torch.float32: 8e10, torch.bfloat16: 1.2e9}
    )
    assert rates_in_words(CPU) == "fp32 80, bf16 1.20 GFLOP/s"
