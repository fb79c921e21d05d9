"""Override values kept as typed where the key takes a text.

Hydra's grammar turns `1.10`, `2024_10_05` and `1e5` into numbers before it asks any schema.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from antlr4 import CommonTokenStream, InputStream, TerminalNode  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser
from omegaconf import DictConfig, OmegaConf

from knowcusbench.config.build import import_target
from knowcusbench.config.schema import SECTIONS, Config
from knowcusbench.errors import ConfigError

CHANGED = {OverrideLexer.INT, OverrideLexer.FLOAT, OverrideLexer.BOOL}
"""Tokens that Hydra reads as something other than text."""

LISTING = ("choice", "shuffle")
"""Functions of Hydra's grammar whose arguments are values of the key."""


def as_typed(words: Sequence[str], compose: Callable[[], DictConfig]) -> list[str]:
    """Return overrides with quotes around number-like and boolean-like values of keys that take a text.

    Words that are no overrides are unchanged. `compose` returns the configuration with these overrides; it is called
    only if a plug-in's key needs it.
    """
    places = {word: list(_changed(word)) for word in words if "=" in word and not word.startswith("-")}
    plug_ins = [word for word, found in places.items() if found and _key(word).split(".")[0] not in SECTIONS]
    composed = None
    if any("." in _key(word) for word in plug_ins):
        try:
            composed = compose()
        except ConfigError:
            # The same error is raised again where the configuration is composed for use.
            composed = None
    return [
        _quoted(word, places[word]) if places.get(word) and takes_text(_hint(_key(word), composed)) else word
        for word in words
    ]


def hint_of_quotes(word: str) -> str:
    """Return "; quote it: ..." for an override that Hydra's grammar refuses but accepts with quotes, else ""."""
    key, separator, value = word.partition("=")
    if not separator or value[:1] in ("[", "{"):
        return ""
    escaped = value.replace('"', r"\"")
    quoted = f'{key}="{escaped}"'
    try:
        OverridesParser.create().parse_overrides([quoted])
    except HydraException:
        return ""
    return f"; quote a text with special characters of Hydra's grammar: {shlex.quote(quoted)}"


def quoted(text: str) -> str:
    """Return a text as a value in Hydra's grammar: in quotes, unless all of its signs are plain everywhere.

    >>> quoted("results/runs"), quoted("it's")
    ('results/runs', "'it\\\\'s'")
    """
    return text if re.fullmatch(r"[\w./:-]+", text) else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def takes_text(hint: Any) -> bool:
    """Return whether a type is a text or a list of texts, and nothing that a number could be meant for.

    >>> takes_text(str | None), takes_text(list[str]), takes_text(str | int)
    (True, True, False)
    """
    if get_origin(hint) in (Union, UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        return bool(parts) and all(map(takes_text, parts))
    if get_origin(hint) in (list, tuple, Sequence):
        return all(takes_text(part) for part in get_args(hint) if part is not Ellipsis)
    return hint is str


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _hint(key: str, composed: DictConfig | None) -> Any:
    """Return a key's type by the schema, or by the dataclass that a plug-in's node names; None where it is unknown."""
    section, *rest = key.split(".")
    if section in SECTIONS and len(rest) == 1:
        return get_type_hints(SECTIONS[section]).get(rest[0])
    if not rest:
        return get_type_hints(Config).get(section)
    parent = OmegaConf.select(composed, key.rpartition(".")[0]) if composed else None
    if not isinstance(parent, DictConfig) or "_target_" not in parent:
        return None
    try:
        return get_type_hints(import_target(str(parent._target_), key)).get(rest[-1])
    except (ConfigError, NameError):
        return None


def _changed(word: str) -> Iterator[tuple[int, int, str]]:
    """Yield the span (first and last character) of every value that Hydra reads as a number or boolean, and how to
    quote it."""
    try:
        OverridesParser.create().parse_overrides([word])
    except HydraException:
        return
    parser = OverrideParser(CommonTokenStream(OverrideLexer(InputStream(word))))
    yield from _values(parser.override())  # type: ignore[no-untyped-call]


def _values(node: Any, quotes: str = "{!r}") -> Iterator[tuple[int, int, str]]:
    if isinstance(node, OverrideParser.PrimitiveContext):
        (child, *others) = node.getChildren()
        if not others and isinstance(child, TerminalNode) and child.symbol.type in CHANGED:
            yield child.symbol.start, child.symbol.stop, quotes
    elif isinstance(node, OverrideParser.FunctionContext):
        # Functions strip the outer quotes, and their result is parsed again.
        if node.getText().partition("(")[0] in LISTING:
            for child in node.getChildren():
                yield from _values(child, '"{!r}"')
    elif not isinstance(node, TerminalNode) and not isinstance(node, OverrideParser.KeyContext):
        for child in node.getChildren():
            yield from _values(child, quotes)


def _quoted(word: str, places: Sequence[tuple[int, int, str]]) -> str:
    for first, last, quotes in reversed(places):
        word = f"{word[:first]}{quotes.format(word[first : last + 1])}{word[last + 1 :]}"
    return word
