"""Names that users give: which texts count as the same, what a pattern matches, and what can be a file name."""

import fnmatch
import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from knowcusbench.errors import ConfigError

MAX_BYTES = 160
"""Largest length of a name in bytes of UTF-8. File systems allow 255, and files add suffixes to a name."""

T = TypeVar("T")


def text_key(text: str) -> str:
    """Return a key that is the same for all texts that people take for the same.

    Compatibility forms are unified (NFKC), case is folded, white space is collapsed, and invisible format characters
    (category Cf) are removed.

    >>> text_key("  ＤＯＧ   Three ")
    'dog three'
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join("".join(sign for sign in folded if unicodedata.category(sign) != "Cf").split())


def same_text(first: str, second: str) -> bool:
    """Return whether people take two texts for the same, as by `text_key`.

    >>> same_text("Straße", "STRASSE")
    True
    """
    return text_key(first) == text_key(second)


def matching(
    patterns: Iterable[str],
    names: Sequence[str],
    key: str,
    *,
    partial: bool = False,
    complaint: str = "is not there",
) -> list[str]:
    """Return the `names` that match the patterns, in the patterns' order, each once.

    A pattern matches the name with its exact spelling, else the names with the same text, else the names that match it
    as a glob. Raises ConfigError with the nearest name for a pattern without a match, unless `partial`. `key` is the
    configuration key that the error names.

    >>> matching(["DOG3", "cat*"], ["cat1", "cat2", "dog3"], "concepts")
    ['dog3', 'cat1', 'cat2']
    """
    # Imported here because readers of a benchmark need no Hydra.
    from knowcusbench.errors import did_you_mean

    found: dict[str, None] = {}
    for pattern in patterns:
        matches = (
            [name for name in names if name == pattern]
            or [name for name in names if same_text(name, pattern)]
            or fnmatch.filter(names, pattern)
        )
        if not matches and not partial:
            raise ConfigError(f"{key}: {pattern!r} {complaint}{did_you_mean(pattern, names)}")
        found.update(dict.fromkeys(matches))
    return list(found)


def by_name(found: Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    """Return `found` with every key respelled like the one of `names` that is the same text.

    If two keys match one name, the key with the exact spelling keeps it, and the other key stays unchanged.

    >>> by_name({"DOG3": 1, "cat": 2}, ["dog3"])
    {'dog3': 1, 'cat': 2}
    """
    spelled = {text_key(name): name for name in names}
    renamed = {key: value for key, value in found.items() if spelled.get(text_key(key)) == key}
    for key, value in found.items():
        name = spelled.get(text_key(key), key)
        renamed.setdefault(key if name in renamed else name, value)
    return renamed


def is_plain_name(name: str) -> bool:
    """Return whether a name can name a visible file or folder.

    Such a name is not empty, has no path separator, no leading dot (so it is not `..`) and no control character, and is
    at most `MAX_BYTES` long.
    """
    return name_fault(name) is None


def name_fault(name: str) -> str | None:
    """Return why a name can't name a visible file or folder, or None if it can.

    >>> name_fault("../dog3")
    'begins with a dot'
    """
    if not name.strip():
        return "is empty"
    if name.startswith("."):
        return "begins with a dot"
    if set(name) & set("/\\"):
        return "has a path separator"
    if not name.isprintable():
        return "has a character that can't be printed"
    size = len(name.encode())
    return f"is {size} bytes long, at most {MAX_BYTES} can be used" if size > MAX_BYTES else None


def check_name(name: str, key: str) -> None:
    """Raise ConfigError, naming `key`, for a name that can't be part of a path."""
    if reason := name_fault(name):
        raise ConfigError(f"{key}: {name!r} can't be a file name: it {reason}; choose another {key}=")


def file_name(text: str) -> str:
    """Return `text` if it can be a file name, else its longest usable beginning and a digest of the whole.

    Different texts get different names.

    >>> file_name("dog3"), file_name("a/b")
    ('dog3', 'a_b-c14cddc0')
    """
    if is_plain_name(text):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    plain = "".join("_" if sign in "/\\" or not sign.isprintable() else sign for sign in text).lstrip(". ")
    beginning = plain.encode(errors="replace")[: MAX_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{beginning}-{digest}"
