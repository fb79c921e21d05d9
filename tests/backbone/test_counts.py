"""Counts of a checkpoint come from a record, or are made once and kept."""

import json
import shutil

import pytest
from conftest import miniature_spec

from knowcusbench.backbone import QwenImageSpec, counting, counts
from knowcusbench.backbone.checkpoint import open_checkpoint
from knowcusbench.backbone.counts import RECORDED, counts_digest, counts_of
from knowcusbench.toybox.shipped import WEIGHTS
from knowcusbench.toymaker.counts import count_shipped

pytestmark = pytest.mark.model


def test_what_is_recorded_is_what_is_counted_anew():
    """Run `python -m knowcusbench.backbone.published` after a change of the shapes."""
    recorded = json.loads(RECORDED.read_text())
    counted = count_shipped()
    assert counted.keys() == recorded.keys()
    for digest, entry in counted.items():
        found = recorded[digest]["counts"]
        assert found["parameters"] == entry["counts"]["parameters"]
        for flops in ("forward_flops", "decode_flops"):
            # Versions of torch differ in which small operations they count.
            assert found[flops] == pytest.approx(entry["counts"][flops], rel=0.01)


@pytest.fixture
def never_counted(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("counted")

    monkeypatch.setattr(counting, "count_checkpoint", fail)


def test_a_recorded_checkpoint_is_not_counted(never_counted):
    checkpoint = open_checkpoint(QwenImageSpec.family, str(WEIGHTS / "pipeline"), None, weights=False)
    assert counts_of(checkpoint, height=64, width=64).parameters["transformer"] == 8_214_384


def test_any_other_is_counted_once_and_kept(tmp_path, monkeypatch):
    checkpoint = open_checkpoint(QwenImageSpec.family, str(WEIGHTS / "pipeline"), None, weights=False)
    made = counts_of(checkpoint, height=48, width=80, kept=tmp_path)
    assert made.decode_flops < counts_of(checkpoint, height=64, width=64).decode_flops
    monkeypatch.setattr(counting, "count_checkpoint", None)
    assert counts_of(checkpoint, height=48, width=80, kept=tmp_path) == made


@pytest.mark.parametrize("content", ["", "{", "[]", '{"parameters": {}}'])
def test_a_damaged_entry_is_counted_again(content, tmp_path):
    checkpoint = open_checkpoint(QwenImageSpec.family, str(WEIGHTS / "pipeline"), None, weights=False)
    file = tmp_path / f"{counts_digest(checkpoint, height=48, width=80)}.json"
    file.write_text(content)
    made = counts_of(checkpoint, height=48, width=80, kept=tmp_path)
    assert json.loads(file.read_text())["decode_flops"] == made.decode_flops


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_another_configuration_file_is_another_digest(component, tmp_path):
    copy = shutil.copytree(WEIGHTS / "pipeline", tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors"))
    before = open_checkpoint(QwenImageSpec.family, str(copy), None, weights=False)
    config = copy / component / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"another": 1}))
    after = open_checkpoint(QwenImageSpec.family, str(copy), None, weights=False)
    assert counts_digest(before, height=64, width=64) != counts_digest(after, height=64, width=64)
    assert counts_digest(before, height=64, width=64) != counts_digest(before, height=64, width=80)


def test_a_specification_counts_with_its_own_size(never_counted):
    """Twice the steps are twice the forwards; the size decides which record is read."""
    few, many = (miniature_spec(WEIGHTS / "pipeline", steps=steps).footprint() for steps in (3, 6))
    record = counts.recorded_counts()[
        counts_digest(
            open_checkpoint(QwenImageSpec.family, str(WEIGHTS / "pipeline"), None, weights=False), height=64, width=64
        )
    ]
    assert many.image_flops - few.image_flops == 3 * 2 * record.forward_flops
