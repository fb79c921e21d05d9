"""What went wrong with the Hugging Face Hub, in one line of ours."""

from collections.abc import Iterator

from knowcusbench.errors import first_line


def hub_problem(error: BaseException) -> str:
    """Say why a repository can't be had from the hub or its cache. Libraries wrap what the hub answered, often in a
    message that points to a stack trace: the cause within is what counts."""
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
        # What the hub's HTTP library raises without an answer; which library that is depends on the version.
        if isinstance(cause, HfHubHTTPError.__bases__[0]):
            return "not in the local hub cache, and the hub can't be reached"
    return first_line(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from, in turn."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
