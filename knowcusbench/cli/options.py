"""Options of verbs that take overrides too."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import NoReturn

from knowcusbench.config.schema import Config
from knowcusbench.errors import ConfigError, did_you_mean
from knowcusbench.storage.files import local_path

SECTIONS = frozenset(entry.name for entry in fields(Config))


class Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError and takes options by their full names only."""

    def __init__(self, verb: str) -> None:
        super().__init__(prog=f"knowcusbench {verb}", add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}")

    def parsed(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Return the options, and the overrides among the arguments. A path may have an equals sign in it."""
        overrides = [word for word in arguments if _is_override(word)]
        options, unknown = self.parse_known_args([word for word in arguments if word not in overrides])
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            raise ConfigError(f"{unknown[0]}: no such option{did_you_mean(unknown[0], known)}")
        return options, overrides


def _is_override(word: str) -> bool:
    if word.startswith("-"):
        return False
    if word.lstrip("+~").partition("=")[0].partition(".")[0] in SECTIONS:
        return "=" in word or word.startswith("~")
    return "=" in word and not (word.endswith(".zip") or local_path(word).exists())
