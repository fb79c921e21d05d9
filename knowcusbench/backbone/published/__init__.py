"""The shapes of published checkpoints: the dimensions in their configuration files, so that a model can be counted and
built at full size without a download."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from knowcusbench.backbone.checkpoint import Checkpoint


@cache
def published_shapes() -> Mapping[str, Any]:
    """Qwen-Image's, as `qwen_image.json` beside this file has them: its hub id as `source`, `parameters` by component,
    and each component's configuration."""
    shapes: dict[str, Any] = json.loads((Path(__file__).parent / "qwen_image.json").read_text(encoding="utf-8"))
    return shapes


def published_checkpoint() -> Checkpoint:
    """Qwen-Image by its shapes alone. There are no weights in its directory."""
    shapes = published_shapes()
    return Checkpoint(
        source=shapes["source"],
        directory=Path(__file__).parent,
        transformer=shapes["transformer"],
        vae=shapes["vae"],
        text_encoder=shapes["text_encoder"],
    )
