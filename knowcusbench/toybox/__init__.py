"""The embedded world: a miniature backbone, miniature metric encoders and a drawn benchmark.

They are ordinary checkpoint directories and an ordinary release directory. Nothing but the configuration (by the
`${embedded:...}` resolver) knows where they come from.
"""

import hashlib
import importlib
from functools import cache
from pathlib import Path

import torch

from knowcusbench.config import did_you_mean
from knowcusbench.errors import ConfigError
from knowcusbench.files import atomic_path
from knowcusbench.store import writing

BUILDERS = {
    "benchmark": ("knowcusbench.toybox.benchmark", "build_benchmark"),
    "pipeline": ("knowcusbench.toybox.pipeline", "build_pipeline"),
    "clip": ("knowcusbench.toybox.encoders", "build_clip"),
    "pickscore": ("knowcusbench.toybox.encoders", "build_pickscore"),
    "sam": ("knowcusbench.toybox.encoders", "build_sam"),
}


@cache
def embedded(part: str, cache_dir: str) -> Path:
    """The directory of a part of the embedded world, built under `cache_dir` on first use (seconds).

    The directory's name depends on the code that builds it, so a change there never meets an old build. Raises
    ConfigError for an unknown part, RunError if the cache can't be written.
    """
    if part not in BUILDERS:
        raise ConfigError(f"${{embedded:{part}}}: no such part{did_you_mean(part, BUILDERS)}")
    module, function = BUILDERS[part]
    directory = Path(cache_dir).expanduser() / "embedded" / _code_version() / part
    if not directory.exists():
        with writing(), atomic_path(directory) as temporary:
            getattr(importlib.import_module(module), function)(temporary)
    return directory.resolve()


@cache
def _code_version() -> str:
    """Changes with the code of this folder, and with torch, whose random numbers make the weights."""
    digest = hashlib.sha256(torch.__version__.encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
