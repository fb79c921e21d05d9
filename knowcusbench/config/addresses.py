"""Where the classes of this package are now that older records and configurations name by where they were."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

PACKAGE = "knowcusbench"


def moved(target: str) -> str | None:
    """Return the present `_target_` of a class that shipped configuration files name; None for any other, and for one
    that is where `target` says."""
    package, _, name = target.rpartition(".")
    now = shipped_targets().get(name, target) if package.split(".")[0] == PACKAGE else target
    return None if now == target else now


@cache
def shipped_targets() -> Mapping[str, str]:
    """Return the `_target_`s in shipped configuration files by the names of their classes."""
    found: dict[str, str] = {}
    for file in Path(str(files(f"{PACKAGE}.configs"))).rglob("*.yaml"):
        for address in re.findall(rf"_target_: ({PACKAGE}[\w.]+)", file.read_text(encoding="utf-8")):
            found[address.rpartition(".")[2]] = address
    return found
