"""Configuration packages of other distributions."""

from pathlib import Path

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl

from knowcusbench.config.compose import PluginConfigs


@pytest.mark.parametrize("group", ["knowcusbench.configs", "knowcusbench.methods", "knowcusbench.metrics"])
def test_packages_named_by_an_entry_point_are_searched_once(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "theirs-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    names = "one = theirs.configs\ntwo = theirs.configs\n"
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{names}[knowcusbench.configs.other]\nno = no.configs\n")
    monkeypatch.syspath_prepend(tmp_path)
    search_path = ConfigSearchPathImpl()
    PluginConfigs().manipulate_search_path(search_path)
    assert [entry.path for entry in search_path.get_path()] == ["pkg://theirs.configs"]
