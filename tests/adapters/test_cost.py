import mmap
import time

import psutil
import torch

from knowcusbench.adapters.cost import measured

CPU = torch.device("cpu")
SIZE = 128 * 2**20


def occupy() -> None:
    """Touch fresh pages and free them; memory from `malloc` may be pages that the process already holds."""
    with mmap.mmap(-1, SIZE) as memory:
        for page in range(0, SIZE, mmap.PAGESIZE):
            memory[page] = 1


def test_the_block_is_timed_under_its_stage() -> None:
    with measured("visual", CPU) as meter:
        time.sleep(0.05)
    assert meter.cost.seconds.keys() == {"visual"}
    assert 0.05 <= meter.cost.seconds["visual"] < 1.0


def test_memory_freed_within_the_block_counts() -> None:
    before = psutil.Process().memory_info().rss
    with measured("visual", CPU) as meter:
        occupy()
    assert meter.cost.peak_memory_bytes > before + 0.8 * SIZE


def test_an_earlier_peak_does_not_count() -> None:
    with measured("visual", CPU) as large:
        occupy()
    with measured("textual", CPU) as small:
        pass
    assert small.cost.peak_memory_bytes < large.cost.peak_memory_bytes - 0.8 * SIZE
