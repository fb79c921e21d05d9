"""The shapes of published checkpoints: the dimensions in their configuration files, so that a model can be counted and
built at full size without a download."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from knowcusbench.backbone.checkpoint import COMPONENTS, Checkpoint
from knowcusbench.backbone.counts import RECORDED
from knowcusbench.backbone.family import Family

DIRECTORY = Path(__file__).parent


@cache
def published_shapes() -> Mapping[str, Mapping[str, Any]]:
    """Return the shapes by hub id. A file of this directory has those of its `sources`: `parameters` by component, and
    each component's configuration."""
    files = [file for file in DIRECTORY.glob("*.json") if file != RECORDED]
    shapes = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(files)]
    return {source: entry for entry in shapes for source in entry["sources"]}


def published_checkpoint(family: Family, source: str) -> Checkpoint:
    """Return a checkpoint of `published_shapes` by its shapes alone. There are no weights in its directory."""
    components = {component: published_shapes()[source][component] for component in COMPONENTS}
    return Checkpoint(family=family, source=source, directory=DIRECTORY, **components)
