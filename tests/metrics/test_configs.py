"""The shipped configuration files of metrics and encoders."""

from dataclasses import replace
from pathlib import Path

import hydra
import pytest

from knowcusbench.config.build import build
from knowcusbench.config.compose import register
from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.encoders.dino import DinoSpec
from knowcusbench.encoders.hps import HpsSpec
from knowcusbench.encoders.segmenters.boxes import GroundingDinoBoxes, WholeImageBoxes
from knowcusbench.encoders.segmenters.sam import SamSpec, SegmentAnythingSpec
from knowcusbench.encoders.siglip import SiglipSpec
from knowcusbench.metrics.base import Metric
from knowcusbench.metrics.dino_i import DinoI, DinoV2I
from knowcusbench.metrics.hpsv2 import HpsV2, HpsV21
from knowcusbench.metrics.siglip_t import SiglipT
from knowcusbench.run.identity import protocol_digest

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
    """Return a function that builds the metrics of a configuration from the shipped groups and overrides."""
    (tmp_path / "main.yaml").write_text(PRIMARY.replace("CACHE", str(tmp_path / "cache")))
    register()

    def compose(*overrides: str) -> dict[str, Metric]:
        with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
            config = hydra.compose("main", overrides=list(overrides))
        return {name: build(node, f"metrics.{name}") for name, node in config.metrics.items()}

    return compose


@pytest.mark.model
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


FURTHER = {
    "dino_i": DinoI(encoder=DinoSpec(source="facebook/dino-vits16")),
    "dinov2_i": DinoV2I(encoder=DinoSpec(source="facebook/dinov2-small")),
    "hpsv2": HpsV2(encoder=HpsSpec(source="xswu/HPSv2", file="HPS_v2_compressed.pt", batch_size=16)),
    "hpsv21": HpsV21(encoder=HpsSpec(source="xswu/HPSv2", file="HPS_v2.1_compressed.pt", batch_size=16)),
    "siglip_t": SiglipT(encoder=SiglipSpec(source="google/siglip2-so400m-patch14-384", batch_size=16)),
}


def test_further_metrics_use_published_encoders(composed, tmp_path: Path) -> None:
    metrics = composed("encoders=published", f"metrics=[{','.join(FURTHER)}]")

    store = str(tmp_path / "cache" / "embeddings")
    for name, expected in FURTHER.items():
        encoder = replace(expected.encoder, revision="main", device="cpu", store=store)
        assert metrics[name] == replace(expected, encoder=encoder)
        assert type(metrics[name]) is type(expected)
        assert metrics[name].name == name


@pytest.mark.parametrize("name", FURTHER)
def test_the_embedded_world_takes_the_encoders_of_further_metrics_from_elsewhere(name: str, composed) -> None:
    key = name.removesuffix("_i").removesuffix("_t")

    (metric,) = composed(f"metrics=[{name}]", f"encoders.{key}.source=somewhere").values()

    assert metric == replace(FURTHER[name], encoder=replace(metric.encoder, source="somewhere"))
    expected = replace(FURTHER[name].encoder, source="somewhere", device="cpu", store=metric.encoder.store)
    assert metric.encoder == expected


def test_where_embeddings_are_kept_is_no_part_of_the_protocol() -> None:
    encoder = {"_target_": "knowcusbench.encoders.ClipSpec", "source": "there", "dtype": "float32"}
    node = {"_target_": "knowcusbench.metrics.ClipI", "encoder": encoder}
    kept = {**node, "encoder": {**encoder, "store": "/somewhere", "batch_size": 3}}
    assert protocol_digest(kept, "/cache") == protocol_digest(node, "/cache")
    assert protocol_digest({**node, "encoder": {**encoder, "source": "here"}}, "/cache") != protocol_digest(
        node, "/cache"
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
    image_scale = 100.0 if protocol == "dreambench_plus" else 1.0
    assert {metrics[name].scale for name in ("clip_i", "clip_i_seg")} == {image_scale}
    assert metrics["clip_i"].bounds == (-image_scale, image_scale)
    assert metrics["clip_t"].bounds == (0 if clamp else -scale, scale)
    if library is TransformersClipSpec:
        assert metrics["clip_t"].encoder.image_backend == metrics["pickscore"].encoder.image_backend == "pil"
    clip_t = metrics["clip_t"]
    assert (clip_t.text_form, clip_t.scale, clip_t.clamp) == (form, scale, clamp)
    assert all(type(metrics[name].encoder) is library for name in ("clip_i", "clip_i_seg", "clip_t"))
    assert metrics["pickscore"].text_form == form


def test_precision_is_the_protocols(composed) -> None:
    metrics = composed("protocol.precision=bfloat16")
    assert {metric.encoder.dtype for metric in metrics.values()} == {"bfloat16"}
