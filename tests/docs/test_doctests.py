"""The examples in docstrings give what they show."""

import doctest
import importlib
import re

import pytest
from docs.documents import ROOT

PACKAGES = {"knowcusbench": "knowcusbench", "methods": "knowcusbench.methods", "baselines": "knowcusbench.baselines"}
"""The package of each folder."""


def examples(path):
    """Count the examples in a file as lines, since doctest would silently skip those it does not find."""
    return len(re.findall(r"^ *>>> ", path.read_text(encoding="utf-8"), re.MULTILINE))


MODULES = {
    ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts]): path
    for folder, package in PACKAGES.items()
    for path in sorted((ROOT / folder).rglob("*.py"))
    if examples(path)
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    module = importlib.import_module(name.removesuffix(".__init__"))
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert (result.failed, result.attempted) == (0, examples(MODULES[name]))
