"""The backbone and the metrics' encoders share a GPU, and missing parts are reported before anything is drawn."""

from pathlib import Path

import huggingface_hub
import pytest
import torch

from knowcusbench.backbone.base import resident
from knowcusbench.cli.main import main
from knowcusbench.run import room

GIB = 2**30


class Spec:
    """A backbone specification that counts how often it is loaded."""

    def __init__(self) -> None:
        self.loaded = 0

    def load(self) -> object:
        self.loaded += 1
        return object()


@pytest.mark.parametrize(("free", "loaded"), [(9.0, 1), (7.0, 2)])
def test_a_backbone_that_leaves_too_little_is_let_go_and_comes_back(free, loaded, monkeypatch) -> None:
    resident.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * GIB), 80 * GIB))
    monkeypatch.setattr(room, "scoring_bytes", lambda metrics: 7 * GIB)
    spec = Spec()
    resident(spec)
    room.make_room([])
    resident(spec)
    resident.cache_clear()
    assert spec.loaded == loaded


def test_without_a_gpu_the_backbone_stays(monkeypatch) -> None:
    resident.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = Spec()
    resident(spec)
    room.make_room([])
    resident(spec)
    resident.cache_clear()
    assert spec.loaded == 1


def test_an_encoder_that_can_not_be_had_is_told_before_anything_is_made(
    tmp_path: Path, miniature: Path, sample_benchmark: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    words = ("method=base", "metrics=[clip_i]", "encoders.clip.source=owner/none", f"cache_dir={tmp_path / 'cache'}")
    photos = (f"backbone.source={miniature}", "benchmark=directory", f"benchmark.path={sample_benchmark}")
    with pytest.raises(SystemExit) as stop:
        main(["bench", *words, *photos, f"run.root={tmp_path}", "run.name=run"])
    assert stop.value.code == 2
    assert "owner/none at revision main: not in the local hub cache" in capsys.readouterr().err
    assert not (tmp_path / "run/adaptations").exists()
