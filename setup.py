"""Name the packages: those under knowcusbench/, and those of folders that lie beside it.

Everything else is in pyproject.toml, which can't search more than one tree under different names.
"""

import tomllib
from pathlib import Path

from setuptools import find_packages, setup

project = tomllib.loads((Path(__file__).parent / "pyproject.toml").read_text(encoding="utf-8"))
folders = {"knowcusbench": "knowcusbench", **project["tool"]["setuptools"]["package-dir"]}
setup(
    packages=[
        package
        for name, folder in folders.items()
        for package in (name, *(f"{name}.{inner}" for inner in find_packages(folder)))
    ]
)
