"""Pipelines with tiny, untrained models in diffusers' directory format, for checks of families."""

import json
from pathlib import Path

from knowcusbench.toybox.models.pipeline import build_pipeline

CHANNELS = 4


def tiny_qwen_image(directory: Path) -> None:
    """Write a `QwenImagePipeline` of a few megabytes whose latents are normalised by statistics other than 0 and 1."""
    build_pipeline(directory, layers=2, heads=2, channels=CHANNELS)
    file = directory / "vae" / "config.json"
    statistics = {
        "latents_mean": [0.1 * channel - 0.3 for channel in range(CHANNELS)],
        "latents_std": [0.5 + 0.25 * channel for channel in range(CHANNELS)],
    }
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | statistics), encoding="utf-8")
