from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from knowcusbench.gpu.check import Checks, close, levels, same

pytestmark = pytest.mark.model

CPU_STEPS = ("A1", "A4")
"""The steps that are cheap enough for every test run; `make check-gpu` runs all."""

GPU_STEPS = ("A1", "A2", "A3", "A4", "A5", "A6")


@pytest.mark.parametrize("step", GPU_STEPS if torch.cuda.is_available() else CPU_STEPS)
def test_the_device_computes_what_the_cpu_computes(step: str, tmp_path: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lines = list(Checks(device, tmp_path).steps()[step][1]())
    assert lines
    assert [line for line in lines if line["ok"] is False] == []


def test_a_check_finds_what_is_wrong() -> None:
    assert same("a", "1", "2")["ok"] is False
    assert same("a", "1", "2", required=False)["ok"] is None
    wanted = torch.tensor([1.0, -10.0])
    assert close("a", wanted, wanted + 0.5e-3, 1e-4)["ok"] is True
    assert close("a", wanted, wanted + 2e-3, 1e-4)["ok"] is False
    black, grey = (Image.fromarray(np.full((2, 2, 3), value, np.uint8)) for value in (0, 7))
    assert levels([black, black], [black, grey]) == (7, 3.5)
