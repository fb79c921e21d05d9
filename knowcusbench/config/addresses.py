"""Present import paths of this package's classes that older records and configurations name by earlier ones."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

PACKAGE = "knowcusbench"


def moved(target: str) -> str | None:
    """Return the present `_target_` of a class that shipped configuration files name.

    None for any other class, and for one whose `target` is up to date.
    """
    package, _, name = target.rpartition(".")
    now = shipped_targets().get(name, target) if package.split(".")[0] == PACKAGE else target
    return None if now == target else now


@cache
def shipped_targets() -> Mapping[str, str]:
    """Return the `_target_`s in shipped configuration files by class name."""
    found: dict[str, str] = {}
    for file in Path(str(files(f"{PACKAGE}.configs"))).rglob("*.yaml"):
        for address in re.findall(rf"_target_: ({PACKAGE}[\w.]+)", file.read_text(encoding="utf-8")):
            found[address.rpartition(".")[2]] = address
    return found
