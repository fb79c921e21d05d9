"""Print the versions that this environment has, as constraints for pip."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
LEFT_OUT = re.compile(r"knowcusbench|pip|setuptools|wheel|triton|nvidia-.*|cuda-.*")
"""The project itself, what a fresh environment brings, and what torch itself pins for each platform."""


def constraint(name: str, version: str, python: str) -> str:
    """Return `name==version`, for those Pythons only that it supports, if not for all that the project does."""
    (oldest,) = (bound.version for bound in SpecifierSet(PROJECT["requires-python"]) if bound.operator == ">=")
    if f"{oldest}.0" in SpecifierSet(python):
        return f"{name}=={version}"
    bounds = (f'python_full_version {bound.operator} "{bound.version}"' for bound in SpecifierSet(python))
    return f"{name}=={version}; {' and '.join(sorted(bounds))}"


def main() -> None:
    found = {
        re.sub(r"[-_.]+", "-", package.name).lower(): (package.version, package.metadata.get("Requires-Python") or "")
        for package in importlib.metadata.distributions()
    }
    print("# The tested set of versions; `make update` renews it.")
    for name, (version, python) in sorted(found.items()):
        if not LEFT_OUT.fullmatch(name):
            # A local part (+cpu) is of one build of a version.
            print(constraint(name, version.partition("+")[0], python))


if __name__ == "__main__":
    main()
