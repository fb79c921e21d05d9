"""Loading the weights of a checkpoint. Everything wrong with it is one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from knowcusbench.backbone.checkpoint import COMPONENTS, READ_ERRORS, Checkpoint
from knowcusbench.errors import WeightsError, first_line

LOAD_ERRORS = (*READ_ERRORS, SafetensorError)
"""Exceptions of the libraries for weights that can't be had, do not parse or do not fit."""


def named_class(checkpoint: Checkpoint, component: str) -> Any:
    """Return the class of a component, that of the text encoder with its head."""
    name = checkpoint.family.component_classes[component]
    return getattr(transformers if component == "text_encoder" else diffusers, name)


def download_pipeline(pipeline_class: str, source: str, revision: str | None) -> Path:
    """Return where the whole pipeline of a hub id is, downloaded if it is not there."""
    with quiet_libraries():
        return Path(getattr(diffusers, pipeline_class).download(source, revision=revision, use_safetensors=True))


def load_pipeline(
    checkpoint: Checkpoint, dtype: torch.dtype, quantization: Mapping[str, Any] | None = None
) -> tuple[Any, torch.nn.Module]:
    """Load the pipeline and its text encoder with its head, from safetensors only: all weights in `dtype`, or as the
    quantisation configuration of their component has it.

    Raises WeightsError, naming the component, for a missing or damaged file and for a missing tensor.
    """
    with quiet_libraries():
        configs = quantization or {}
        models = {
            component: _load_model(checkpoint, component, dtype, configs.get(component)) for component in COMPONENTS
        }
        text_encoder = models["text_encoder"]
        if checkpoint.is_headless:
            models["text_encoder"] = text_encoder.model
        pipeline = _assemble(checkpoint, models)
    checkpoint.family.check(pipeline, checkpoint.source)
    return pipeline, text_encoder


def load_sibling(checkpoint: Checkpoint, pipeline: Any, dtype: torch.dtype, quantization: Any | None) -> Any:
    """Load the transformer, the scheduler and the settings of another checkpoint into a pipeline that shares the rest
    with `pipeline`.

    Raises WeightsError if the transformer can't be loaded, or has other tensors than the pipeline's.
    """
    with quiet_libraries():
        transformer = _load_model(checkpoint, "transformer", dtype, quantization)
        shared = {name: part for name, part in pipeline.components.items() if name not in ("transformer", "scheduler")}
        sibling = _assemble(checkpoint, {**shared, "transformer": transformer})
    own, other = (
        {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        for model in (pipeline.transformer, transformer)
    )
    if differing := sorted(own.items() ^ other.items()):
        raise WeightsError(
            f"backbone.drawing_source: {differing[0][0]} of {checkpoint.source!r} is not as in backbone.source, whose "
            "LoRAs it is to draw with; choose a checkpoint that was made from it"
        )
    return sibling


def _assemble(checkpoint: Checkpoint, models: Mapping[str, Any]) -> Any:
    try:
        return getattr(diffusers, checkpoint.family.pipeline_class).from_pretrained(checkpoint.directory, **models)
    except LOAD_ERRORS as error:
        raise WeightsError(f"{checkpoint.key}: can't load {checkpoint.source!r} ({first_line(error)})") from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the log lines and progress bars of diffusers and transformers out: what matters in them is raised."""
    loggers: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)
    before = [(logger, logger.get_verbosity(), logger.is_progress_bar_enabled()) for logger in loggers]
    try:
        for logger in loggers:
            logger.set_verbosity(logger.CRITICAL)
            logger.disable_progress_bar()
        yield
    finally:
        for logger, verbosity, progress_bar in before:
            logger.set_verbosity(verbosity)
            if progress_bar:
                logger.enable_progress_bar()


def _load_model(checkpoint: Checkpoint, component: str, dtype: torch.dtype, quantization: Any | None) -> Any:
    try:
        model, report = named_class(checkpoint, component).from_pretrained(
            checkpoint.directory,
            subfolder=component,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **({"quantization_config": quantization} if quantization else {}),
        )
    except LOAD_ERRORS as error:
        raise WeightsError(
            f"{checkpoint.key}: can't load the {component} of {checkpoint.source!r} ({first_line(error)})"
        ) from error
    # Such tensors would be left empty (diffusers) or filled at random (transformers).
    faults = [f"lacks the tensor {name}" for name in report["missing_keys"]]
    faults += [
        f"has {name} of shape {tuple(found)}, its configuration says {tuple(expected)}"
        for name, found, expected in report["mismatched_keys"]
    ]
    if faults:
        more = f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else ""
        raise WeightsError(
            f"{checkpoint.key}: the {component} of {checkpoint.source!r} {min(faults)}{more}; copy the checkpoint again"
        )
    return model
