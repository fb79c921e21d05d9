"""The parts of a class that decide a result: name, version and fields, never its module path."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from knowcusbench.config.build import build
from knowcusbench.encoders.base import EncoderSpec, ImageEncoder
from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.segmenters.base import SegmenterSpec
from knowcusbench.encoders.segmenters.boxes import WholeImageBoxes
from knowcusbench.errors import ConfigError
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.clip_i_seg import ClipISeg, SubjectEmbedder
from knowcusbench.run.identity import decisive, protocol_digest
from knowcusbench.storage.versions import SPEED, settings, version_of

ENCODER = {"_target_": "knowcusbench.encoders.ClipSpec", "source": "there", "device": "cpu"}
NODE = {"_target_": "knowcusbench.metrics.ClipI", "encoder": ENCODER}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module with another name."""
    module = ModuleType("elsewhere")
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    return module


def test_a_class_in_another_file_has_the_same_digest(elsewhere: ModuleType) -> None:
    elsewhere.ClipI, elsewhere.ClipSpec = ClipI, ClipSpec
    there = {"_target_": "elsewhere.ClipI", "encoder": {**ENCODER, "_target_": "elsewhere.ClipSpec"}}
    assert protocol_digest(there, "/cache") == protocol_digest(NODE, "/cache")
    elsewhere.ClipI = type("ClipI2", (ClipI,), {"__qualname__": "ClipI2"})
    assert protocol_digest(there, "/cache") != protocol_digest(NODE, "/cache")


def test_a_class_of_this_package_is_found_from_where_it_was() -> None:
    was = {
        "_target_": "knowcusbench.before.clip_i.ClipI",
        "encoder": {**ENCODER, "_target_": "knowcusbench.old.ClipSpec"},
    }
    assert build(was, "metrics.clip_i") == build(NODE, "metrics.clip_i")
    assert protocol_digest(was, "/cache") == protocol_digest(NODE, "/cache")
    for address in ("knowcusbench.before.Unheard", "another.before.ClipI"):
        with pytest.raises(ConfigError, match=f"can't import '{address}'"):
            build({**NODE, "_target_": address}, "metrics.clip_i")


@pytest.mark.parametrize("cls", [ClipI, ClipSpec])
def test_a_raised_version_is_another_protocol(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = protocol_digest(NODE, "/cache")
    monkeypatch.setattr(cls, "version", 2)
    assert protocol_digest(NODE, "/cache") != before


@dataclass(frozen=True, kw_only=True)
class Plugin:
    store: str = "a"
    device: str = "a"
    batch_size: int = 1
    workers: int = field(default=1, metadata=SPEED)


def test_a_field_decides_the_result_unless_it_is_declared_as_one_of_speed() -> None:
    node = {"_target_": f"{__name__}.Plugin"}
    found = decisive({**node, "store": "b", "device": "b", "batch_size": 2, "workers": 3}, "/cache")
    assert found == {"_class_": "Plugin", "_version_": 1, "store": "b", "device": "b", "batch_size": 2}
    assert settings(Plugin(store="b", workers=3)) == ["Plugin", {"store": "b", "device": "a", "batch_size": 1}]


def test_a_setting_that_is_called_version_is_no_version_of_the_class() -> None:
    @dataclass
    class Release:
        version: str = "v2"

    assert version_of(Release) == 1
    assert settings(Release()) == [Release.__qualname__, {"version": "v2"}]


def test_embeddings_of_before_there_were_versions_are_found_again(tmp_path: Path) -> None:
    """Return the key as it was before there were versions."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    spec = ClipSpec(source=str(tmp_path), store="/anywhere", batch_size=3)
    said = [
        ["ClipSpec", {"source": str(tmp_path), "revision": None, "dtype": "float32"}],
        sorted(spec.weights().items()),
    ]
    assert spec.key == hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


class MeanColour(ImageEncoder):
    """An embedder that returns an image's mean colour and counts images."""

    embedded = 0

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        type(self).embedded += len(pixels)
        return pixels.mean(dim=(2, 3))


@dataclass(frozen=True, kw_only=True)
class MeanColourSpec(EncoderSpec):
    def build(self) -> MeanColour:
        return MeanColour(self)

    def weights(self) -> Mapping[str, str]:
        return {self.source: "1"}


@dataclass(frozen=True, kw_only=True)
class LeftHalfSpec(SegmenterSpec):
    """A segmenter that returns the left half."""

    version: ClassVar[int] = 1

    def predictor(self) -> "LeftHalfSpec":
        return self

    def predict(self, images: list[Image.Image], boxes: object) -> list[np.ndarray]:
        masks = [np.zeros((image.height, image.width), dtype=bool) for image in images]
        for mask in masks:
            mask[:, : mask.shape[1] // 2] = True
        return masks

    def weights(self) -> Mapping[str, str]:
        return {}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_an_encoder_of_a_raised_version_embeds_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = MeanColourSpec(source="colour", device="cpu", store=str(file.parent / "store"))
    monkeypatch.setattr(MeanColour, "embedded", 0)

    def embedded() -> bool:
        """Return whether anything is computed by an object like another process's."""
        before = MeanColour.embedded
        spec.build().embed_files([file])
        return MeanColour.embedded > before

    assert [embedded(), embedded()] == [True, False]
    monkeypatch.setattr(MeanColourSpec, "version", 2)
    assert [embedded(), embedded()] == [True, False]


@pytest.mark.parametrize("raised", [ClipISeg, MeanColourSpec, LeftHalfSpec, WholeImageBoxes])
def test_a_subject_is_cut_out_and_embedded_again_by_a_raised_version(
    raised: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = MeanColourSpec(source="colour", device="cpu", store=str(file.parent / "store"))
    monkeypatch.setattr(MeanColour, "embedded", 0)

    def embedded() -> bool:
        before = MeanColour.embedded
        metric = ClipISeg(encoder=encoder, segmenter=LeftHalfSpec(boxes=WholeImageBoxes()))
        SubjectEmbedder(metric).embed([(file, "thing")])
        return MeanColour.embedded > before

    assert [embedded(), embedded()] == [True, False]
    monkeypatch.setattr(raised, "version", 2)
    assert [embedded(), embedded()] == [True, False]
