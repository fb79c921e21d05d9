import time

import numpy as np
import psutil
import torch

from knowcusbench.adaptation.measure import measured

CPU = torch.device("cpu")


def test_the_block_is_timed_under_its_stage() -> None:
    with measured("visual", CPU) as meter:
        time.sleep(0.05)
    assert meter.cost.seconds.keys() == {"visual"}
    assert 0.05 <= meter.cost.seconds["visual"] < 1.0


def test_memory_freed_within_the_block_counts() -> None:
    before = psutil.Process().memory_info().rss
    with measured("visual", CPU) as meter:
        np.ones(1 << 24)  # 128 MiB, touched and freed at once
    assert meter.cost.peak_memory_bytes > before + 100 * 2**20


def test_an_earlier_peak_does_not_count() -> None:
    with measured("visual", CPU) as large:
        np.ones(1 << 24)
    with measured("textual", CPU) as small:
        pass
    assert small.cost.peak_memory_bytes < large.cost.peak_memory_bytes - 100 * 2**20
