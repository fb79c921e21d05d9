"""The hardware of this machine, for records."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil


def hardware(*, gpus: bool = True) -> dict[str, Any]:
    """Return the processor and memory of this machine, and with `gpus`, which imports torch, its GPUs."""
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [],
    }
    if gpus:
        import torch

        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
