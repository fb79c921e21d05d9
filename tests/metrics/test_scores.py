"""Properties of every metric."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from knowcusbench.benchmark.types import Task
from knowcusbench.encoders import base as encoders_module
from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.encoders.dino import DinoSpec
from knowcusbench.encoders.hps import HpsSpec
from knowcusbench.encoders.segmenters.sam import SamSpec
from knowcusbench.encoders.siglip import SiglipSpec
from knowcusbench.errors import ConfigError, ImageError, MetricError
from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.clip_i_seg import ClipISeg
from knowcusbench.metrics.clip_t import ClipT
from knowcusbench.metrics.dino_i import DinoI, DinoV2I
from knowcusbench.metrics.hpsv2 import HpsV2, HpsV21
from knowcusbench.metrics.pickscore import PickScore
from knowcusbench.metrics.siglip_t import SiglipT

NAMES = ("clip_i", "clip_i_seg", "clip_t", "pickscore", "dino_i", "dinov2_i", "hpsv2", "hpsv21", "siglip_t")
WITH_REFERENCES = ("clip_i", "clip_i_seg", "dino_i", "dinov2_i")


@pytest.fixture(scope="session")
def metrics(
    clip: ClipSpec,
    preference: TransformersClipSpec,
    segmenter: SamSpec,
    dino: DinoSpec,
    dinov2: DinoSpec,
    hps: HpsSpec,
    siglip: SiglipSpec,
) -> dict[str, Metric]:
    found: tuple[Metric, ...] = (
        ClipI(encoder=clip),
        ClipISeg(encoder=clip, segmenter=segmenter),
        ClipT(encoder=clip),
        PickScore(encoder=preference),
        DinoI(encoder=dino),
        DinoV2I(encoder=dinov2),
        HpsV2(encoder=hps),
        HpsV21(encoder=replace(hps, file="HPS_v2.1_compressed.pt")),
        SiglipT(encoder=siglip),
    )
    return {metric.name: metric for metric in found}


def with_batch_size(metric: Any, size: int) -> Metric:
    """Return the same metric with freshly loaded encoders and empty caches."""
    changed = replace(metric, encoder=replace(metric.encoder, batch_size=size))
    if isinstance(changed, ClipISeg):
        changed = replace(changed, segmenter=replace(changed.segmenter, batch_size=size))
    return changed


def values(scores: list[Score]) -> list[float]:
    return [score.value for score in scores]


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_batch_size_order_or_company(
    name: str, metrics: dict[str, Metric], items: list[ScoreItem]
) -> None:
    together = values(metrics[name].score(items))

    np.testing.assert_allclose(values(with_batch_size(metrics[name], 1).score(items)), together, atol=1e-5)
    backwards = with_batch_size(metrics[name], 3).score(items[::-1])
    np.testing.assert_allclose(values(backwards)[::-1], together, atol=1e-5)
    alone = with_batch_size(metrics[name], 7).score(items[4:5])
    np.testing.assert_allclose(values(alone), together[4:5], atol=1e-5)
    assert all(type(value) is float for value in together)
    assert np.ptp(together) > 1e-3


def test_tasks_and_references_are_those_of_the_papers_table(metrics: dict[str, Metric]) -> None:
    both, generation = {Task.RECONSTRUCTION, Task.GENERATION}, {Task.GENERATION}
    for name, metric in metrics.items():
        assert metric.uses_references == (name in WITH_REFERENCES)
        assert set(metric.tasks) == (both if name in WITH_REFERENCES else generation)
    assert tuple(metrics) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_no_items_give_no_scores(name: str, metrics: dict[str, Metric]) -> None:
    assert metrics[name].score([]) == []


def test_grey_transparent_and_16_bit_files_score_as_the_rgb_image_they_show(
    metrics: dict[str, Metric], dogs: list[Path], tmp_path: Path
) -> None:
    colour = Image.open(dogs[0]).convert("RGB")
    grey = colour.convert("L")
    grey.convert("RGB").save(tmp_path / "rgb.png")
    grey.save(tmp_path / "grey.png")
    grey.convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "16bit.png")

    files = [tmp_path / name for name in ("rgb.png", "grey.png", "rgba.png", "16bit.png")]
    scores = metrics["clip_i"].score([ScoreItem(f.stem, f, tuple(dogs), "", "dog") for f in files])

    assert values(scores) == [scores[0].value] * 4
    # Four files of the same pixels, each read by itself.
    assert len({path.read_bytes() for path in files}) == 4


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_how_many_read_nor_on_the_lossless_format(
    name: str, metrics: dict[str, Metric], items: list[ScoreItem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: dict[str, list[ScoreItem]] = {"png": [], "webp": []}
    for number, item in enumerate(items[:4]):
        for suffix, some in converted.items():
            file = tmp_path / f"{number}.{suffix}"
            Image.open(item.image).save(file, lossless=True)
            some.append(replace(item, image=file))
    found = []
    for suffix, readers in (("png", 1), ("webp", 7)):
        monkeypatch.setattr(encoders_module, "READERS", readers)
        found.append(values(with_batch_size(metrics[name], readers + 10).score(converted[suffix])))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    np.testing.assert_allclose(found[0], values(metrics[name].score(items[:4])), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (10_000, 3), (3, 4_000)])
def test_images_of_any_shape_have_a_score(
    name: str, size: tuple[int, int], metrics: dict[str, Metric], dogs: list[Path], tmp_path: Path
) -> None:
    Image.new("RGB", size, "orange").save(tmp_path / "odd.png")
    (score,) = metrics[name].score([ScoreItem("odd", tmp_path / "odd.png", tuple(dogs[:2]), "a {}", "dog")])
    assert -1 <= score.value <= 100


def test_an_image_is_read_once_for_all_metrics_that_share_an_encoder(
    clip: ClipSpec, dogs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    original = encoders_module.read_image
    monkeypatch.setattr(encoders_module, "read_image", lambda path: read.append(path) or original(path))
    fresh = replace(clip, batch_size=5)
    items = [ScoreItem(str(n), image, tuple(dogs[2:]), "a dog", "dog") for n, image in enumerate(dogs[:2])]

    ClipI(encoder=fresh).score(items)
    ClipT(encoder=replace(fresh)).score(items)
    ClipI(encoder=fresh).score(items)

    assert sorted(read) == sorted(dogs)


def test_a_file_that_changed_is_scored_anew(clip: ClipSpec, dogs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "image.jpg"
    item = ScoreItem("s", file, (dogs[0],), "", "dog")
    file.write_bytes(dogs[1].read_bytes())
    before = ClipI(encoder=clip).score([item])
    file.write_bytes(dogs[0].read_bytes())

    after = ClipI(encoder=clip).score([item])

    assert after[0].value == pytest.approx(1.0, abs=1e-6)
    assert before[0].value < 1 - 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_is_missing_is_named(
    name: str, metrics: dict[str, Metric], dogs: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=r"gone\.png"):
        metrics[name].score([ScoreItem("s", tmp_path / "gone.png", tuple(dogs), "a dog", "dog")])


@pytest.mark.parametrize("name", WITH_REFERENCES)
def test_a_sample_without_references_is_named(name: str, metrics: dict[str, Metric], dogs: list[Path]) -> None:
    with pytest.raises(MetricError, match="sample lonely"):
        metrics[name].score([ScoreItem("lonely", dogs[0], (), "a dog", "dog")])


def test_a_score_that_is_not_finite_names_the_sample(
    encoders: Path, clip: ClipSpec, dogs: list[Path], tmp_path: Path
) -> None:
    weights = load_file(encoders / "clip" / "open_clip_model.safetensors")
    weights["visual.ln_post.weight"][:] = torch.inf
    save_file(weights, tmp_path / "open_clip_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "open_clip_config.json").write_bytes((encoders / "clip" / "open_clip_config.json").read_bytes())
    broken = ClipI(encoder=replace(clip, source=str(tmp_path)))

    with pytest.raises(MetricError, match=r"CLIP-I of sample s7 .*is nan"):
        broken.score([ScoreItem("s7", dogs[0], (dogs[1],), "", "dog")])


def test_a_batch_size_that_is_not_positive_is_refused(clip: ClipSpec, dogs: list[Path]) -> None:
    with pytest.raises(ConfigError, match="batch_size: 0"):
        replace(clip, batch_size=0).load().embed_files(dogs)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_near_full_precision(
    name: str, metrics: dict[str, Metric], items: list[ScoreItem]
) -> None:
    metric: Any = metrics[name]
    half = replace(metric, encoder=replace(metric.encoder, dtype="bfloat16"))
    if isinstance(half, ClipISeg):
        half = replace(half, segmenter=replace(half.segmenter, dtype="bfloat16"))

    full, rounded = values(metric.score(items)), values(half.score(items))

    # PickScore is a cosine times about 14.
    np.testing.assert_allclose(rounded, full, atol=0.3 if name == "pickscore" else 0.02)
    assert rounded != full
