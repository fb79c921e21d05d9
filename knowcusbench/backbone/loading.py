"""Loading the weights of a Qwen-Image checkpoint. Everything wrong with it is one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from safetensors import SafetensorError
from transformers import Qwen2_5_VLForConditionalGeneration

from knowcusbench.backbone.checkpoint import READ_ERRORS, Checkpoint
from knowcusbench.errors import WeightsError, first_line

MODELS = {
    "transformer": QwenImageTransformer2DModel,
    "vae": AutoencoderKLQwenImage,
    "text_encoder": Qwen2_5_VLForConditionalGeneration,
}
"""The pipeline's components that have weights, and their classes."""

LOAD_ERRORS = (*READ_ERRORS, SafetensorError)
"""Exceptions of the libraries for weights that can't be had, do not parse or do not fit."""


def download_pipeline(source: str, revision: str | None) -> Path:
    """Where the whole pipeline of a hub id is, downloaded if it is not there."""
    with quiet_libraries():
        return Path(QwenImagePipeline.download(source, revision=revision, use_safetensors=True))


def load_pipeline(
    checkpoint: Checkpoint, dtype: torch.dtype, quantization: Mapping[str, Any] | None = None
) -> QwenImagePipeline:
    """The pipeline with all weights in `dtype`, or as the quantisation configuration of their component has it, from
    safetensors only.

    Raises WeightsError, naming the component, for a missing or damaged file and for a missing tensor.
    """
    with quiet_libraries():
        configs = quantization or {}
        models = {component: _load_model(checkpoint, component, dtype, configs.get(component)) for component in MODELS}
        try:
            pipeline = QwenImagePipeline.from_pretrained(checkpoint.directory, **models)
        except LOAD_ERRORS as error:
            raise WeightsError(f"backbone.source: can't load {checkpoint.source!r} ({first_line(error)})") from error
    _check_template(checkpoint, pipeline)
    return pipeline


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without the log lines and progress bars of diffusers and transformers: what matters in them is raised."""
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


def _load_model(
    checkpoint: Checkpoint, component: str, dtype: torch.dtype, quantization: Any | None
) -> torch.nn.Module:
    loader: Any = MODELS[component]
    try:
        model, report = loader.from_pretrained(
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
            f"backbone.source: can't load the {component} of {checkpoint.source!r} ({first_line(error)})"
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
            f"backbone.source: the {component} of {checkpoint.source!r} {min(faults)}{more}; copy the checkpoint again"
        )
    return model  # type: ignore[no-any-return]


def _check_template(checkpoint: Checkpoint, pipeline: QwenImagePipeline) -> None:
    """The pipeline drops a fixed number of template tokens in front of the prompt; a tokenizer that is damaged or of
    another model would make it drop part of the prompt, or keep part of the template."""
    prefix, _ = pipeline.prompt_template_encode.split("{}")
    found = len(pipeline.tokenizer(prefix)["input_ids"])
    wanted = pipeline.prompt_template_encode_start_idx
    if found != wanted:
        raise WeightsError(
            f"backbone.source: the tokenizer of {checkpoint.source!r} makes {found} tokens of the prompt template, "
            f"Qwen-Image's makes {wanted}; copy the checkpoint again"
        )
