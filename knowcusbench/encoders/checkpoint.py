"""Checkpoints of metric encoders: locating them, identifying their version, and loading them safely."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

from safetensors import SafetensorError

from knowcusbench.errors import WeightsError, first_line
from knowcusbench.storage.hub import hub_problem
from knowcusbench.storage.hub_cache import absent_weights, broken_link, hub_snapshot, settled

ImageBackend = Literal["pil", "torchvision"]
"""Library with which transformers resizes images. Both are bicubic or bilinear with antialiasing, and differ by up to a
grey level in a pixel."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

FILES = ("*.json", "*.txt")
"""Configuration, tokenizer and processor files that `locate` downloads from a hub repository."""

TRANSFORMERS_WEIGHTS = ("model.safetensors", "model-*.safetensors")

TRANSFORMERS_PICKLE = "pytorch_model.bin"
"""Weights file of older checkpoints, which may have no safetensors."""

# OSError covers files and the hub; the others are contents that do not parse or do not fit the model.
_LOADER_ERRORS = (OSError, EOFError, ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError)


def locate(source: str, revision: str | None, weights: tuple[str, ...] = ()) -> Path:
    """Return the local directory of a checkpoint: `source` itself, or a hub repository's files (downloaded).

    Args:
        source: directory or hub id (owner/name).
        revision: commit, tag or branch of the hub repository; None for its main branch.
        weights: names or globs of the needed weight files, in addition to `FILES`.

    Raises WeightsError naming `source` if there is no such directory or repository, or it is unavailable now.
    """
    directory = Path(source).expanduser()
    if directory.is_dir():
        if broken := broken_link(directory):
            raise WeightsError(f"{source}: {broken}")
        return directory
    if not HUB_ID.fullmatch(source):
        raise WeightsError(f"{source}: no such directory, and not a hub id (owner/name) either")
    from huggingface_hub import snapshot_download

    revision = settled(revision)

    def download() -> Path:
        return Path(snapshot_download(source, revision=revision, allow_patterns=[*FILES, *weights]))

    def is_whole(found: Path) -> bool:
        return not absent_weights(found, weights) if weights else any(found.glob("*.json"))

    try:
        return hub_snapshot(source, revision, download, is_whole)
    except (OSError, ValueError) as error:
        wanted = f"{source} at revision {revision or 'main'}"
        raise WeightsError(f"{wanted}: {hub_problem(error)}; or give a local directory as source") from error


def version(path: Path) -> str:
    """Return an identifier of a checkpoint's content.

    For a hub snapshot, or a file in one, it is the commit ("commit:..."); otherwise the digest of the local directory's
    or file's names and bytes ("sha256:...").
    """
    snapshot = path if path.is_dir() else path.parent
    if snapshot.parent.name == "snapshots":
        return f"commit:{snapshot.name}"
    root, files = (path, sorted(path.rglob("*"))) if path.is_dir() else (path.parent, [path])
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.relative_to(root)}\0".encode())
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


@contextmanager
def loading(source: str) -> Iterator[None]:
    """Guard code that loads a checkpoint on the CPU.

    Errors become a WeightsError naming `source`. The global generator is left unchanged, although the model is
    initialised at random before its weights are loaded.
    """
    import torch

    try:
        with torch.random.fork_rng(devices=[]):
            yield
    except _LOADER_ERRORS as error:
        raise WeightsError(f"{source}: can't be loaded for a metric ({first_line(error)})") from error


def transformers_config(source: str, directory: Path, *model_types: str) -> Any:
    """Return the configuration of a transformers checkpoint.

    Raises WeightsError, naming `source`, if its model type is not among `model_types`.
    """
    from transformers import AutoConfig

    with loading(source):
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    if config.model_type not in model_types:
        raise WeightsError(f"{source}: holds a model of type {config.model_type}, expected {' or '.join(model_types)}")
    return config


def load_transformers(model_class: Any, source: str, directory: Path, **settings: Any) -> Any:
    """Load a transformers model in fp32 on the CPU for inference, from safetensors or else a pickle of tensors.

    Args:
        settings: arguments of the model class's constructor.

    Raises WeightsError, naming `source`, also for a checkpoint that lacks some of the model's weights, which
    transformers would fill with random numbers.
    """
    import torch
    import transformers

    with loading(source), _no_progress_bar(transformers.utils.logging):
        model, report = model_class.from_pretrained(
            directory, dtype=torch.float32, weights_only=True, output_loading_info=True, **settings
        )
    if missing := sorted(report["missing_keys"]):
        raise WeightsError(f"{source}: lacks {len(missing)} weights of its model, the first is {missing[0]}")
    return model.eval().requires_grad_(False)


@contextmanager
def _no_progress_bar(logging: Any) -> Iterator[None]:
    """Without the progress bars of transformers, as they were set before."""
    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def load_image_processor(source: str, directory: Path, backend: ImageBackend) -> Any:
    """Return the image processor of a transformers checkpoint that resizes with `backend`.

    Raises WeightsError, naming `source`, if it can't be loaded or resizes with another backend.
    """
    from transformers import AutoImageProcessor

    with loading(source):
        processor = AutoImageProcessor.from_pretrained(directory, backend=backend, trust_remote_code=False)
    if processor.backend != backend:
        raise WeightsError(f"{source}: transformers has no image processor for it with the backend {backend!r}")
    return processor
