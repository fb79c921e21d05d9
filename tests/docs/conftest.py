"""The generator of the configuration reference, which lies with the documents."""

import importlib.util
import sys

import pytest
from docs.documents import ROOT


@pytest.fixture(scope="session")
def reference():
    spec = importlib.util.spec_from_file_location("configuration_reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
