"""The local cache of Hugging Face Hub repositories: complete ones are found without a network."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Self

COMMIT = re.compile("[0-9a-f]{40}")

WEIGHTS: Sequence[str] = ("*.safetensors", "*.bin", "*.pt", "*.pth")
"""Patterns of weight files."""

_SHARD = re.compile(r"-\d+-of-\d+\.")


class Branch(str):
    """The name of a branch or tag, bound to one commit. "" is the main branch where none was named.

    As text it is the name, and keys and records hold the name. Every process that gets it loads the commit.

    Attributes:
        commit: the full commit hash, 40 digits.
    """

    commit: str

    def __new__(cls, name: str, commit: str) -> Self:
        branch = super().__new__(cls, name)
        branch.commit = commit
        return branch

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str(self), self.commit


def settled(revision: str | None) -> str | None:
    """Return the commit that a `Branch` is bound to, and any other revision unchanged."""
    return revision.commit if isinstance(revision, Branch) else revision


def current_commit(source: str, revision: str | None) -> str | None:
    """Return the commit that a model's branch or tag points to, from the hub or else from its local cache.

    None if neither knows it, or if the hub has no such repository or revision.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return HfApi().model_info(source, revision=revision, timeout=10).sha
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None
    except Exception:  # whatever keeps the hub from answering, by the client's HTTP library
        found = cached(source, revision)
        return found.name if found else None


def hub_snapshot(
    source: str,
    revision: str | None,
    download: Callable[[], Path],
    is_whole: Callable[[Path], bool] | None,
    *,
    repo_type: str = "model",
) -> Path:
    """Return the local directory of a hub repository's files; download them if needed.

    A commit never changes: if the cache has the wanted files of a commit, the hub isn't asked. For any other revision
    the hub's newest state counts, or the cache's if the hub can't be reached.

    Args:
        download: downloads from the hub and returns the directory; its errors are raised.
        is_whole: returns whether a directory has all wanted files; None where only the hub can tell.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    revision = settled(revision)

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
    """Return whether a revision is a full commit hash, which never moves."""
    return bool(revision and COMMIT.fullmatch(revision))


def cached(source: str, revision: str | None, repo_type: str = "model") -> Path | None:
    """Return the directory where the hub's cache has this repository, complete or in part; None if it has no file of
    it."""
    from huggingface_hub import snapshot_download

    try:
        commit = settled(revision)
        return Path(snapshot_download(source, revision=commit, repo_type=repo_type, local_files_only=True))
    except (OSError, ValueError, RuntimeError):
        return None


def broken_link(folder: Path) -> str:
    """Return a message about a dangling link in a folder, as in a plain copy of a hub snapshot, and the remedy; "" if
    there is none."""
    broken = next((file for file in sorted(folder.rglob("*")) if file.is_symlink() and not file.exists()), None)
    return f"{broken} is a link to a file that is not there; copy a hub snapshot with `cp -rL`" if broken else ""


def absent_weights(folder: Path, patterns: Sequence[str] = WEIGHTS) -> list[str]:
    """Return the weight files that a folder should have but lacks; for sharded weights, those that its index names.

    Args:
        patterns: names or globs of files. One complete set of weights that matches any of them is enough.
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
