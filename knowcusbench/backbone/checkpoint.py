"""A Qwen-Image checkpoint by its configuration files: a diffusers directory or a hub id. Needs no torch."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowcusbench.errors import WeightsError
from knowcusbench.storage.hub import hub_problem
from knowcusbench.storage.hub_cache import absent_weights, broken_link, hub_snapshot

PIPELINE = "QwenImagePipeline"

COMPONENTS = {
    "transformer": "QwenImageTransformer2DModel",
    "vae": "AutoencoderKLQwenImage",
    "text_encoder": "Qwen2_5_VLForConditionalGeneration",
}
"""The pipeline's components that have weights, and the names of their classes in diffusers and transformers."""

READ_ERRORS = (OSError, ValueError, RuntimeError)
"""Exceptions of the libraries for files and the hub (OSError), and for contents that do not parse."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on this machine, known by its configuration files.

    Attributes:
        source: the directory or hub id as the user gave it.
        directory: where its files are.
        transformer, vae, text_encoder: the components' configurations.
    """

    source: str
    directory: Path
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]

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
    if found != PIPELINE:
        raise WeightsError(f"backbone.source: {source!r} holds a {found}, expected a {PIPELINE}")
    for component, name in COMPONENTS.items():
        found = (index.get(component) or [None, None])[1]
        if found != name:
            raise WeightsError(f"backbone.source: the {component} of {source!r} is a {found}, expected a {name}")
    configs = {component: _read_json(directory / component / "config.json") for component in COMPONENTS}
    return Checkpoint(source=source, directory=directory, **configs)


def absent_files(directory: Path) -> list[str]:
    """The files that a pipeline's directory should have and has not, as far as its index files tell: nothing of a
    component that `model_index.json` lists, or weights."""
    try:
        index = _read_json(directory / "model_index.json")
    except WeightsError:
        return ["model_index.json"]
    listed = [name for name, value in index.items() if isinstance(value, list) and value[-1:] not in ([], [None])]
    empty = [f"{name}/" for name in listed if not any((directory / name).glob("*"))]
    weights = [f"{name}/{file}" for name in COMPONENTS for file in absent_weights(directory / name)]
    return [*empty, *(file for file in weights if f"{file.partition('/')[0]}/" not in empty)]


def _local_directory(source: str, revision: str | None, *, weights: bool) -> Path:
    path = Path(source).expanduser()
    if source and path.is_dir():
        if broken := broken_link(path):
            raise WeightsError(f"backbone.source: {broken}")
        return path
    if path.exists() or source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise WeightsError(f"backbone.source: no directory {source!r}, and it is not a hub id (owner/name)")

    def download() -> Path:
        if weights:
            from knowcusbench.backbone.loading import download_pipeline

            return download_pipeline(source, revision)
        from huggingface_hub import snapshot_download

        with _no_progress_bars():
            return Path(snapshot_download(source, revision=revision, allow_patterns="*.json"))

    def is_whole(found: Path) -> bool:
        if weights:
            return not absent_files(found)
        return all((found / name).exists() for name in ("model_index.json", *(f"{c}/config.json" for c in COMPONENTS)))

    try:
        return hub_snapshot(source, revision, download, is_whole)
    except READ_ERRORS as error:
        at = f" at revision {revision!r}" if revision else ""
        raise WeightsError(f"backbone.source: can't get {source!r}{at} from the hub: {hub_problem(error)}") from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


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
