"""The shipped configuration files of metrics and encoders."""

from pathlib import Path

import hydra
import pytest

from knowcusbench.config import build, register
from knowcusbench.metrics.base import Metric
from knowcusbench.metrics.boxes import GroundingDinoBoxes, WholeImageBoxes
from knowcusbench.metrics.clip import ClipSpec
from knowcusbench.metrics.clip_transformers import TransformersClipSpec
from knowcusbench.metrics.sam import SamSpec, SegmentAnythingSpec

NAMES = ("clip_i", "clip_i_seg", "clip_t", "pickscore")

PRIMARY = """
defaults:
  - schema
  - protocol: mokus
  - encoders: miniature
  - metrics: [clip_i, clip_i_seg, clip_t, pickscore]
  - _self_
device: cpu
cache_dir: CACHE
hydra:
  searchpath: [pkg://knowcusbench.configs]
"""


@pytest.fixture
def composed(tmp_path: Path):
    """Builds the metrics of a configuration that uses the shipped groups, with overrides."""
    (tmp_path / "main.yaml").write_text(PRIMARY.replace("CACHE", str(tmp_path / "cache")))
    register()

    def compose(*overrides: str) -> dict[str, Metric]:
        with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
            config = hydra.compose("main", overrides=list(overrides))
        return {name: build(node, f"metrics.{name}") for name, node in config.metrics.items()}

    return compose


def test_the_default_metrics_use_the_miniature_encoders(composed, dogs: list[Path]) -> None:
    metrics = composed()

    assert tuple(metrics) == NAMES
    assert {name: metric.name for name, metric in metrics.items()} == dict(zip(NAMES, NAMES, strict=True))
    assert metrics["clip_i"].encoder == metrics["clip_t"].encoder == metrics["clip_i_seg"].encoder
    assert metrics["clip_i_seg"].segmenter.boxes == WholeImageBoxes()
    assert all(Path(source).is_dir() for metric in metrics.values() for source in metric.weights())


def test_the_published_encoders_are_those_of_the_field(composed, tmp_path: Path) -> None:
    metrics = composed("encoders=published")
    store = str(tmp_path / "cache" / "embeddings")

    assert metrics["clip_i"].encoder == ClipSpec(
        source="timm/vit_base_patch32_clip_224.openai",
        revision="ab5b8ef490e86faa07d3523926b842c765de1de5",
        device="cpu",
        store=store,
    )
    assert metrics["pickscore"].encoder == TransformersClipSpec(
        source="yuvalkirstain/PickScore_v1",
        revision="main",
        processor="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        processor_revision="main",
        device="cpu",
        batch_size=16,
        store=store,
    )
    boxes = GroundingDinoBoxes(source="IDEA-Research/grounding-dino-base", revision="main", device="cpu")
    assert metrics["clip_i_seg"].segmenter == SamSpec(
        source="facebook/sam-vit-huge", revision="main", boxes=boxes, device="cpu"
    )


def test_the_authors_sam_and_other_boxes_can_be_chosen(composed) -> None:
    metrics = composed(
        "encoders=published",
        "encoders/segmenter=segment_anything",
        "encoders/segmenter/boxes=whole_image",
        "encoders.segmenter.checkpoint=sam_vit_h_4b8939.pth",
        "metrics=[clip_i_seg]",
    )

    assert list(metrics) == ["clip_i_seg"]
    assert metrics["clip_i_seg"].segmenter == SegmentAnythingSpec(
        architecture="vit_h", checkpoint="sam_vit_h_4b8939.pth", boxes=WholeImageBoxes(), device="cpu"
    )


@pytest.mark.parametrize(
    ("protocol", "pairing", "form", "scale", "clamp", "library"),
    [
        ("mokus", "all", "class_noun", 1.0, False, ClipSpec),
        ("dreambooth", "all", "class_noun", 1.0, False, ClipSpec),
        ("customconcept101", "all", "stripped", 2.5, True, ClipSpec),
        ("dreambench_plus", "single", "class_noun", 100.0, False, TransformersClipSpec),
    ],
)
def test_protocols_say_what_the_field_does(
    composed, protocol: str, pairing: str, form: str, scale: float, clamp: bool, library: type
) -> None:
    metrics = composed(f"protocol={protocol}", "encoders=published")

    assert {metrics[name].pairing for name in ("clip_i", "clip_i_seg")} == {pairing}
    clip_t = metrics["clip_t"]
    assert (clip_t.text_form, clip_t.scale, clip_t.clamp) == (form, scale, clamp)
    assert all(type(metrics[name].encoder) is library for name in ("clip_i", "clip_i_seg", "clip_t"))
    assert metrics["pickscore"].text_form == form


def test_precision_is_the_protocols(composed) -> None:
    metrics = composed("protocol.precision=bfloat16")
    assert {metric.encoder.dtype for metric in metrics.values()} == {"bfloat16"}
