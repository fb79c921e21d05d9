"""Loading a diffusers pipeline from a directory or the hub, with one-line errors."""

import json
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from knowcusbench.errors import WeightsError

P = TypeVar("P")


def load_pipeline(cls: type[P], source: str, revision: str | None, dtype: str) -> P:
    """`cls.from_pretrained` from safetensors only.

    Raises WeightsError naming `source` for a directory that is not such a pipeline, a missing or damaged file, and a
    hub id that can't be had.
    """
    check_source(source, cls.__name__)
    loader: Any = cls
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    try:
        pipeline: P = loader.from_pretrained(
            source, revision=revision, dtype=getattr(torch, dtype), use_safetensors=True
        )
    # The loaders raise OSError for files and the hub, the others for contents that do not parse or fit.
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"backbone.source: can't load {source!r} ({first_line(error)})") from error
    return pipeline


CONFIG_FILES = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
"""The configuration file of a component's folder, where it is not `config.json`."""


def check_source(source: str, pipeline_class: str) -> None:
    """Raise WeightsError for a local `source` that is not a whole directory of `pipeline_class`.

    The libraries do not: without its `config.json` a text encoder of the default size (72 B) is made at random.
    """
    path = Path(source).expanduser()
    if not path.exists():
        if source.startswith(("/", "./", "../", "~")) or source.count("/") != 1:
            raise WeightsError(f"backbone.source: no directory {source!r}, and it is not a hub id (owner/name)")
        return
    index_path = path / "model_index.json"
    try:
        index = json.loads(index_path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"backbone.source: {index_path} can't be read ({error}); is it a diffusers directory?"
        ) from error
    if index.get("_class_name") != pipeline_class:
        raise WeightsError(
            f"backbone.source: {source!r} holds a {index.get('_class_name')}, expected a {pipeline_class}"
        )
    for component, kind in index.items():
        # The other entries are the pipeline's own settings, and optional components that are absent.
        if not isinstance(kind, list) or kind[0] is None:
            continue
        config = path / component / CONFIG_FILES.get(component, "config.json")
        if not config.is_file():
            raise WeightsError(f"backbone.source: {config} is missing; copy the checkpoint again")


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
