"""The weights in the package: their location, and the check of their integrity."""

import hashlib
import json
import random
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from knowcusbench.benchmark import types
from knowcusbench.errors import ConfigError
from knowcusbench.storage.files import write_atomic

WEIGHTS = Path(__file__).parent / "weights"

MANIFEST = "manifest.json"
"""The world's digest and the SHA-256 of every file, by its path in the folder."""

REMEDY = "install the package again, or make new weights with `make toybox`"


@cache
def world_digest() -> str:
    """Return a digest of rendered scenes, captions and facts; refactoring does not change it."""
    from knowcusbench.toybox.world.concepts import DEVELOPMENT_CONCEPTS, NOVEL_CONCEPTS
    from knowcusbench.toybox.world.language import PROMPTS, caption, known_items
    from knowcusbench.toybox.world.render import render
    from knowcusbench.toybox.world.vocabulary import sentences
    from knowcusbench.toybox.world.world import NAMED, SIMPLE, draw_scene, settled

    digest = hashlib.sha256()
    known = (*known_items(), *NAMED.items(), *SIMPLE.items(), *NOVEL_CONCEPTS, *DEVELOPMENT_CONCEPTS)
    for text in (*sentences(), *PROMPTS, *map(repr, known)):
        digest.update(text.encode() + b"\0")
    rng = random.Random("the world")
    for _ in range(64):
        scene = draw_scene(rng)
        for shown in (scene, settled(scene)):
            digest.update(np.asarray(render(shown)).tobytes())
        digest.update(caption(scene, rng).encode())
    return digest.hexdigest()


def remembered_world(folder: Path) -> str:
    """Return `world_digest()` from its cache file in `folder`, written by the first call.

    Drawing takes half a second. The file's name depends on the code and the libraries.
    """
    kept = folder / f"world-{_sources_digest()[:16]}"
    try:
        if re.fullmatch("[0-9a-f]{64}", known := kept.read_text(encoding="utf-8")):
            return known
    except (OSError, UnicodeDecodeError):
        pass
    write_atomic(kept, world_digest().encode())
    return world_digest()


def _sources_digest() -> str:
    """Return a digest of every file that `world_digest` may depend on, and of its libraries."""
    digest = hashlib.sha256(f"{sys.version} {np.__version__} {PIL.__version__}".encode())
    for path in (*sorted(Path(__file__).parent.rglob("*.py")), Path(types.__file__)):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def weights_version() -> str:
    """Return the digest of the package's manifest, and so of all weights. Raises ConfigError if there is none."""
    if not (WEIGHTS / MANIFEST).is_file():
        raise ConfigError(f"{WEIGHTS / MANIFEST}: the embedded world's weights are missing; {REMEDY}")
    return file_digest(WEIGHTS / MANIFEST)


def check_weights(folder: Path, part: str, world: str) -> None:
    """Compare a part's files in a folder with the package's manifest; `world` is the digest of the code's world.

    Raises ConfigError for weights that are missing, altered or of another version of the world.
    """
    manifest = json.loads((WEIGHTS / MANIFEST).read_text(encoding="utf-8"))
    if manifest["world"] != world:
        raise ConfigError(
            f"{WEIGHTS}: the weights are of world {manifest['world'][:12]}, this code draws world "
            f"{world[:12]}; {REMEDY}"
        )
    for name, digest in manifest["files"].items():
        if not name.startswith(f"{part}/"):
            continue
        if not (folder / name).is_file():
            raise ConfigError(f"{folder / name}: a weight file of the embedded world is missing; {_remedy(folder)}")
        found = file_digest(folder / name)
        if found != digest:
            raise ConfigError(
                f"{folder / name}: SHA-256 {found[:12]}, the manifest says {digest[:12]}: the file was altered; "
                f"{_remedy(folder)}"
            )


def _remedy(folder: Path) -> str:
    return REMEDY if folder == WEIGHTS else f"remove {folder}, it is only a copy"


def write_manifest(folder: Path, extra: dict[str, Any]) -> None:
    """Write the manifest of the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent != folder)
    manifest = extra | {
        "world": world_digest(),
        "files": {path.relative_to(folder).as_posix(): file_digest(path) for path in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
