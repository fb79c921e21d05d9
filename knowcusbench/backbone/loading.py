"""Opening a Qwen-Image checkpoint: a diffusers directory or a hub id. Everything wrong with it is one line."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from knowcusbench.errors import WeightsError

MODELS = {
    "transformer": QwenImageTransformer2DModel,
    "vae": AutoencoderKLQwenImage,
    "text_encoder": Qwen2_5_VLForConditionalGeneration,
}
"""The pipeline's components that have weights, and their classes."""

LOAD_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError)
"""What the libraries raise for files and the hub (OSError), and for contents that do not parse or fit."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on this machine, known by its configuration files.

    Attributes:
        source: the directory or hub id as the user gave it.
        directory: where its files are.
        transformer, vae: the diffusers configurations.
        text_encoder: the transformers configuration.
    """

    source: str
    directory: Path
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Qwen2_5_VLConfig

    def __hash__(self) -> int:
        return hash((self.source, self.directory))

    @property
    def pixels_per_token(self) -> int:
        """Height and width of the square that one image token covers: the VAE's stride times a patch of two."""
        return 2 * int(2 ** len(self.vae["temperal_downsample"]))


def open_checkpoint(source: str, revision: str | None, *, weights: bool) -> Checkpoint:
    """Find a checkpoint and read its configuration files.

    Of a hub id, `weights` downloads the whole pipeline and otherwise only the JSON files. Raises WeightsError, naming
    the source or file, for a source that can't be had and for one that is not a Qwen-Image pipeline.
    """
    directory = _local_directory(source, revision, weights=weights)
    index = _read_json(directory / "model_index.json")
    found = index.get("_class_name")
    if found != QwenImagePipeline.__name__:
        raise WeightsError(f"backbone.source: {source!r} holds a {found}, expected a {QwenImagePipeline.__name__}")
    for component, cls in MODELS.items():
        found = (index.get(component) or [None, None])[1]
        if found != cls.__name__:
            raise WeightsError(
                f"backbone.source: the {component} of {source!r} is a {found}, expected a {cls.__name__}"
            )
    configs = {component: _read_json(directory / component / "config.json") for component in MODELS}
    return Checkpoint(
        source=source,
        directory=directory,
        transformer=configs["transformer"],
        vae=configs["vae"],
        text_encoder=Qwen2_5_VLConfig.from_dict(configs["text_encoder"]),
    )


def cached(source: str, revision: str | None) -> Path | None:
    """Where the hub's cache has this repository, whole or in part; None if it has nothing of it."""
    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except LOAD_ERRORS:
        return None


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


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class name if there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _local_directory(source: str, revision: str | None, *, weights: bool) -> Path:
    path = Path(source).expanduser()
    if source and path.is_dir():
        return path
    if path.exists() or source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise WeightsError(f"backbone.source: no directory {source!r}, and it is not a hub id (owner/name)")
    try:
        with quiet_libraries():
            if weights:
                return Path(QwenImagePipeline.download(source, revision=revision, use_safetensors=True))
            return Path(snapshot_download(source, revision=revision, allow_patterns="*.json"))
    except LOAD_ERRORS as error:
        at = f" at revision {revision!r}" if revision else ""
        raise WeightsError(f"backbone.source: can't get {source!r}{at} from the hub ({first_line(error)})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"backbone.source: {path} can't be read ({error.strerror}); a diffusers directory has it"
        ) from error
    except ValueError as error:
        raise WeightsError(f"backbone.source: {path} is not JSON ({error}); copy the checkpoint again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"backbone.source: {path} is not a JSON object; copy the checkpoint again")
    return content


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
