"""A checkpoint by its configuration files: a diffusers directory or a hub id. Needs no torch."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowcusbench.backbone.family import Family
from knowcusbench.errors import WeightsError
from knowcusbench.storage.hub import hub_problem
from knowcusbench.storage.hub_cache import absent_weights, broken_link, hub_snapshot

COMPONENTS = ("transformer", "vae", "text_encoder")
"""The components of a pipeline that have weights."""

READ_ERRORS = (OSError, ValueError, RuntimeError)
"""Exceptions of the libraries for files and the hub (OSError), and for contents that do not parse."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on this machine, known by its configuration files.

    Attributes:
        family: what kind of pipeline it is.
        source: the directory or hub id as the user gave it.
        directory: where its files are.
        transformer, vae, text_encoder: the components' configurations.
        key: the setting that names it, in error messages.
        is_headless: whether the pipeline's text encoder is the model without the language model's head.
    """

    family: Family
    source: str
    directory: Path
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    key: str = "backbone.source"
    is_headless: bool = False

    def __hash__(self) -> int:
        return hash((self.source, self.directory))

    @property
    def pixels_per_token(self) -> int:
        """Height and width of the square that one image token covers."""
        return self.family.pixels_per_token(self.vae)


def open_checkpoint(
    family: Family, source: str, revision: str | None, *, weights: bool, key: str = "backbone.source"
) -> Checkpoint:
    """Find a checkpoint and read its configuration files.

    Of a hub id, `weights` downloads the whole pipeline and otherwise only the JSON files. Raises WeightsError, naming
    `key` and the source or file, for a source that can't be had and for one that is no pipeline of this family.
    """
    directory = _local_directory(family, source, revision, weights=weights, key=key)
    index = _read_json(directory / "model_index.json", key)
    found = index.get("_class_name")
    if found != family.pipeline_class:
        raise WeightsError(f"{key}: {source!r} holds a {found}, expected a {family.pipeline_class}")
    classes = {component: (index.get(component) or [None, None])[1] for component in COMPONENTS}
    for component, name in family.component_classes.items():
        is_body = component == "text_encoder" and classes[component] == family.headless_class
        if classes[component] != name and not is_body:
            raise WeightsError(f"{key}: the {component} of {source!r} is a {classes[component]}, expected a {name}")
    configs = {component: _read_json(directory / component / "config.json", key) for component in COMPONENTS}
    is_headless = classes["text_encoder"] != family.component_classes["text_encoder"]
    return Checkpoint(family=family, source=source, directory=directory, key=key, is_headless=is_headless, **configs)


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


def _local_directory(family: Family, source: str, revision: str | None, *, weights: bool, key: str) -> Path:
    path = Path(source).expanduser()
    if source and path.is_dir():
        if broken := broken_link(path):
            raise WeightsError(f"{key}: {broken}")
        return path
    if path.exists() or source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise WeightsError(f"{key}: no directory {source!r}, and it is not a hub id (owner/name)")

    def download() -> Path:
        if weights:
            from knowcusbench.backbone.loading import download_pipeline

            return download_pipeline(family.pipeline_class, source, revision)
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
        raise WeightsError(f"{key}: can't get {source!r}{at} from the hub: {hub_problem(error)}") from error


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


def _read_json(path: Path, key: str = "backbone.source") -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{key}: {path} can't be read ({error.strerror}); a diffusers directory has it") from error
    except ValueError as error:
        raise WeightsError(f"{key}: {path} is not JSON ({error}); copy the checkpoint again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{key}: {path} is not a JSON object; copy the checkpoint again")
    return content
