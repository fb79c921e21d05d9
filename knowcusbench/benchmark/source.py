"""Sources of a benchmark: a local directory, or a data set repository on the Hugging Face Hub."""

from pathlib import Path

from knowcusbench.errors import BenchmarkError
from knowcusbench.storage.files import local_path
from knowcusbench.storage.hub import hub_problem
from knowcusbench.storage.hub_cache import hub_snapshot

MOVING_REVISION = "main"
"""The hub's default branch, refused because a benchmark must not change under a run."""


def resolve_source(path: str | None, repo: str | None, revision: str | None) -> Path:
    """Return the directory of a benchmark, downloading it from the hub if it is not in the cache.

    Args:
        path: a local directory ("~" stands for the home directory), or None.
        repo: a data set id on the hub ("owner/name"), or None. Exactly one of `path` and `repo` is given.
        revision: for `repo`, a commit hash or a tag.

    The hub's environment variables apply (`HF_HUB_OFFLINE`, `HF_HUB_CACHE`, `HF_TOKEN`, ...). Raises BenchmarkError for
    a source that is not given, not pinned or unavailable.
    """
    if (path is None) == (repo is None):
        given = "neither" if path is None else "both"
        raise BenchmarkError(f"benchmark: give either benchmark.path or benchmark.repo, found {given}")
    if path is not None:
        return _local(path)
    assert repo is not None
    return _snapshot(repo, revision)


def _local(path: str) -> Path:
    directory = local_path(path)
    if not directory.is_dir():
        raise BenchmarkError(
            f"benchmark.path={path}: no such directory; give the one with the release's concept_image/"
        )
    return directory


def _snapshot(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if not revision or revision == MOVING_REVISION:
        found = f"the branch {revision!r}, which moves" if revision else "none"
        raise BenchmarkError(f"benchmark.repo={repo}: benchmark.revision must be a commit or a tag, found {found}")

    def download() -> Path:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision))

    try:
        return hub_snapshot(repo, revision, download, None, repo_type="dataset")
    except (OSError, HFValidationError) as error:
        raise BenchmarkError(
            f"benchmark.repo={repo} at {revision} is not available from the hub or its cache: {hub_problem(error)}"
        ) from error
