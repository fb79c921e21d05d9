"""Errors of the Hugging Face Hub, each as one line."""

from collections.abc import Iterator

from knowcusbench.errors import first_line


def hub_problem(error: BaseException) -> str:
    """Return why a repository can't be loaded from the hub or its cache.

    Libraries wrap the hub's answer, often in a message that points to a stack trace, so the first known cause in the
    chain counts.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for cause in _causes(error):
        match cause:
            case GatedRepoError():
                return "access must be asked for on the repository's page, and needs a token (`hf auth login`)"
            case RepositoryNotFoundError():
                return "no such repository on the hub (or access to it needs a token: `hf auth login`)"
            case RevisionNotFoundError():
                return "the hub repository has no such revision"
            case HFValidationError():
                return "not a hub id (owner/name)"
            case LocalEntryNotFoundError() | OfflineModeIsEnabled() | ConnectionError():
                return "not in the local hub cache, and the hub can't be reached"
            case EntryNotFoundError():
                return f"a file is missing there ({first_line(cause)})"
            case HfHubHTTPError():
                return first_line(cause)
        # The hub's HTTP library raises this without an answer; which library it is depends on the version.
        if isinstance(cause, HfHubHTTPError.__bases__[0]):
            return "not in the local hub cache, and the hub can't be reached"
    return first_line(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, then what it was raised from, and so on."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
