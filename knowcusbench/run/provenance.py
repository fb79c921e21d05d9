"""The provenance of a result: versions, commit, hardware and command line."""

import importlib.metadata
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import knowcusbench
from knowcusbench.machine.hardware import hardware

PACKAGES = (
    "knowcusbench",
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "open_clip_torch",
    "huggingface_hub",
    "tokenizers",
    "safetensors",
    "numpy",
    "pandas",
    "pillow",
    "hydra-core",
)
"""Packages that can change a pixel or a score."""


def provenance(*, computes: bool = True) -> dict[str, Any]:
    """Return the provenance of this process's results, as JSON values.

    A process that does not compute (`computes` is false) records no GPUs.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git": git_state(Path(knowcusbench.__file__).parent),
        "hardware": hardware(gpus=computes),
    }


def git_state(directory: Path) -> dict[str, Any] | None:
    """Return the commit and dirty flag of the git repository that tracks the package at `directory`.

    None for an installed package.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(directory), *arguments],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    # A package installed into a virtual environment inside some repository is not tracked by that repository.
    if not git("ls-files", "__init__.py"):
        return None
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
