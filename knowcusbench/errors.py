"""Errors that a user can cause.

The command prints each as one line and exits with code 2 (3 if images are missing in the end). Every other exception is
a bug of ours and shows its traceback. A message names what is wrong, where it is and what to do about it.
"""

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """An error that the user can mend. Its message is complete: what is wrong, where, and the remedy."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration key, value or combination that can't be used."""


class BenchmarkError(UserError):
    """A benchmark directory or data set that can't be read; `faults` lists every one that was found."""

    def __init__(self, message: str, faults: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class ImageError(UserError):
    """An image file that is missing, damaged or dangerous to open."""


class WeightsError(UserError):
    """Weights (a checkpoint, a hub id, an adapter) that are missing, altered or of the wrong shape."""


class MethodError(UserError):
    """A method, or a concept given to it, that can't be used together."""


class PictureError(UserError):
    """A drawn picture whose pixels are not finite."""


class MetricError(UserError):
    """An encoder, text or score that a metric can't use."""


class RunError(UserError):
    """A run directory that can't be used: made with another configuration, damaged or not writable."""


class IncompleteError(UserError):
    """A command that did all it could and left some images missing."""

    exit_code = 3


class BundleError(UserError):
    """A bundle of shared results that can't be written, read or trusted, or bundles that don't belong together.

    Messages quote what strangers wrote, so a character that would move a terminal's cursor is replaced by "?".
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else "?" for letter in message))


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a user error as one line on standard error and exit with its code."""
    try:
        yield
    except UserError as error:
        print(f"knowcusbench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" with the known word nearest to `word`, or a list of all known words.

    >>> did_you_mean("mokuss", ["mokus", "naive_db"])
    "; did you mean 'mokus'?"
    >>> did_you_mean("zebra", ["mokus", "naive_db"])
    '; known: mokus, naive_db'
    """
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(options)}"


def first_line(error: BaseException) -> str:
    r"""Return the first non-blank line of an error's message, or the name of the error's type if there is none.

    >>> first_line(ValueError("no such revision\n\n  stack trace"))
    'no such revision'
    >>> first_line(KeyboardInterrupt())
    'KeyboardInterrupt'
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
