from pathlib import Path

import pytest

from knowcusbench.adaptation.cache import AdapterCache


@pytest.fixture
def cache(tmp_path: Path) -> AdapterCache:
    return AdapterCache(tmp_path / "cache")
