"""Repositories of the Hugging Face Hub on this machine: found without a network where they are whole."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

COMMIT = re.compile("[0-9a-f]{40}")

WEIGHTS: Sequence[str] = ("*.safetensors", "*.bin", "*.pt", "*.pth")
"""Files of weights."""

_SHARD = re.compile(r"-\d+-of-\d+\.")


def hub_snapshot(
    source: str,
    revision: str | None,
    download: Callable[[], Path],
    is_whole: Callable[[Path], bool] | None,
    *,
    repo_type: str = "model",
) -> Path:
    """The directory of a hub repository's files, downloaded if they are not here.

    A commit never changes: if the cache has what is wanted of it, the hub isn't asked. Of anything else the hub knows
    the newest state; where it can't be reached, the cache's counts.

    Args:
        download: asks the hub, and gives the directory; its errors are raised.
        is_whole: whether a directory has all that is wanted; None where only the hub can tell.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    def kept() -> Path | None:
        found = cached(source, revision, repo_type)
        return found if found and (is_whole is None or is_whole(found)) else None

    if is_whole and is_commit(revision) and (found := kept()):
        return found
    try:
        return download()
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except (OSError, ValueError):
        # Some versions ask the network for a commit's list of files before they look into their cache.
        if found := kept():
            return found
        raise


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a full commit hash, which never moves."""
    return bool(revision and COMMIT.fullmatch(revision))


def cached(source: str, revision: str | None, repo_type: str = "model") -> Path | None:
    """Where the hub's cache has this repository, whole or in part; None if it has nothing of it."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, repo_type=repo_type, local_files_only=True))
    except (OSError, ValueError, RuntimeError):
        return None


def absent_weights(folder: Path, patterns: Sequence[str] = WEIGHTS) -> list[str]:
    """The weight files that a folder should have and has not: of weights in parts, those that its index names.

    Args:
        patterns: names or globs of files; weights in any of them, whole, are enough.
    """
    wanted = [pattern for pattern in patterns if any(fnmatch(pattern, kind) for kind in WEIGHTS)]
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if any(fnmatch(name, pattern) and not _SHARD.search(name) for name in names for pattern in wanted):
        return []
    absences = [
        sorted(parts - names)
        for index in sorted(folder.glob("*.index.json"))
        if (parts := set(_parts(index))) and all(any(fnmatch(part, pattern) for pattern in wanted) for part in parts)
    ]
    return min(absences, key=len) if absences else list(wanted[:1])


def _parts(index: Path) -> Iterator[str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    yield from found.values()
