"""Errors of the hub and its libraries, each in one line."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from knowcusbench.storage.hub import hub_problem

RESPONSE: Any = SimpleNamespace(headers={}, request=None, status_code=401)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RepositoryNotFoundError("401 Client Error.\n\nRepository Not Found", response=RESPONSE), "no such repository"),
        (GatedRepoError("403 Client Error", response=RESPONSE), "access must be asked for"),
        (RevisionNotFoundError("404 Client Error", response=RESPONSE), "no such revision"),
        (HFValidationError("Repo id must use alphanumeric chars"), r"not a hub id \(owner/name\)"),
        (LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder"), "can't be reached"),
        (HfHubHTTPError.__bases__[0]("Name or service not known"), "can't be reached"),
        (PermissionError(13, "Permission denied", "/cache"), "Permission denied"),
    ],
)
def test_a_cause_is_told_in_our_words_however_it_is_wrapped(error: Exception, words: str) -> None:
    wrapped = OSError("Cannot load model a/b: ... Please check out the root cause in the stacktrace above.")
    wrapped.__cause__ = error
    found = hub_problem(error)
    assert re.search(words, found)
    assert "\n" not in found
    if not isinstance(error, PermissionError):
        assert hub_problem(wrapped) == found
