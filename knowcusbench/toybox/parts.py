"""The parts of the embedded world as directories: copied, converted or drawn on first use."""

import shutil
from functools import cache
from pathlib import Path

from knowcusbench.errors import ConfigError, did_you_mean
from knowcusbench.storage.files import atomic_path
from knowcusbench.storage.tables import writing
from knowcusbench.toybox.shipped import WEIGHTS, check_weights, remembered_world, weights_version

TRAINED = ("pipeline", "clip", "pickscore", "sam", "oracle")
"""The parts with weights in the package."""

PARTS = ("benchmark", "development", "clip_transformers", *TRAINED)


@cache
def embedded(part: str, cache_dir: str) -> Path:
    """Return the directory of a part of the embedded world under `cache_dir`.

    Trained weights are copied from the package and checked against their digests. The CLIP in transformers' format
    (`clip_transformers`) is converted on first use. The benchmark, and its sibling for the tuning of methods, are drawn
    on first use.

    A directory's name depends on its content, so that a new version never meets an old one. Raises ConfigError for an
    unknown part and for weights that are missing, altered or of another version of the world; RunError if the cache
    can't be written.
    """
    if part not in PARTS:
        raise ConfigError(f"${{embedded:{part}}}: no such part{did_you_mean(part, PARTS)}")
    drawn = part in ("benchmark", "development")
    place = Path(cache_dir).expanduser() / "embedded"
    with writing():
        world = remembered_world(place)
    folder = place / (world if drawn else weights_version())[:12]
    directory = folder / part
    if not directory.exists():
        with writing(), atomic_path(directory) as temporary:
            _make(part, temporary, world)
    if part in TRAINED:
        check_weights(folder, part, world)
    return directory.resolve()


def _make(part: str, directory: Path, world: str) -> None:
    if part in TRAINED:
        check_weights(WEIGHTS, part, world)
        shutil.copytree(WEIGHTS / part, directory)
    elif part == "clip_transformers":
        from knowcusbench.toybox.models.clip_transformers import save_clip_transformers

        check_weights(WEIGHTS, "clip", world)
        save_clip_transformers(WEIGHTS / "clip", directory)
    else:
        # Imported here: an existing directory does not need the modules that draw it.
        from knowcusbench.toybox.world.benchmark import build_benchmark
        from knowcusbench.toybox.world.concepts import DEVELOPMENT_CONCEPTS, NOVEL_CONCEPTS

        build_benchmark(directory, NOVEL_CONCEPTS if part == "benchmark" else DEVELOPMENT_CONCEPTS)
