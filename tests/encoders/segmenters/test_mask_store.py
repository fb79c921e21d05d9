"""Stored masks: exactly those of the scores, once per image and noun, without a change to a score."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.segmenters.base import Box, Mask, SegmenterSpec
from knowcusbench.encoders.segmenters.boxes import WholeImageBoxes
from knowcusbench.encoders.segmenters.mask_store import MaskStore, mask_name, read_mask
from knowcusbench.errors import ImageError
from knowcusbench.metrics.base import ScoreItem
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.clip_i_seg import ClipISeg
from knowcusbench.storage.digests import content_digest


@dataclass(frozen=True, kw_only=True)
class Reddish(SegmenterSpec):
    """A third-party segmenter: pixels redder than a limit."""

    limit: int
    version: str = "1"

    def predictor(self) -> "Reddish":
        return self

    def predict(self, images: Sequence[Image.Image], boxes: Sequence[Box]) -> list[Mask]:
        return [np.asarray(image)[..., 0] > self.limit for image in images]

    def weights(self) -> Mapping[str, str]:
        return {"reddish": self.version}


def metric_of(clip: ClipSpec, store: Path | None, segmenter: SegmenterSpec) -> ClipISeg:
    return ClipISeg(encoder=replace(clip, store=store and str(store)), segmenter=segmenter)


def test_the_mask_that_a_score_was_computed_with_is_kept_by_image_and_noun(
    clip: ClipSpec, dogs: list[Path], ducks: list[Path], tmp_path: Path
) -> None:
    segmenter = Reddish(boxes=WholeImageBoxes(), limit=128)
    metric = metric_of(clip, tmp_path, segmenter)
    item = ScoreItem("s", ducks[0], tuple(dogs[:3]), "", "duck", reference_noun="dog")

    (score,) = metric.score([item])

    masks = metric.masks()
    assert masks is not None
    assert masks.names() == {
        mask_name(content_digest(file), noun)
        for file, noun in [(ducks[0], "duck"), *((dog, "dog") for dog in dogs[:3])]
    }
    kept = read_mask(masks.directory / mask_name(content_digest(ducks[0]), "duck"))
    np.testing.assert_array_equal(kept, np.asarray(Image.open(ducks[0]).convert("RGB"))[..., 0] > 128)
    assert score.details["coverage"] == pytest.approx(kept.mean(), abs=1e-6)
    assert Image.open(next(masks.directory.iterdir())).mode == "1"


def test_scores_and_kept_embeddings_are_the_same_with_masks_and_without(
    clip: ClipSpec, dogs: list[Path], ducks: list[Path], tmp_path: Path
) -> None:
    segmenter = Reddish(boxes=WholeImageBoxes(), limit=100)
    items = [ScoreItem("s", duck, tuple(dogs[:2]), "", "dog") for duck in ducks[:2]]
    without = metric_of(clip, None, segmenter)
    assert without.masks() is None
    expected = without.score(items)
    metric = metric_of(clip, tmp_path, segmenter)
    assert metric.score(items) == expected
    # Another process finds the embeddings and segments nothing, so deleted masks are not restored.
    masks = metric.masks()
    assert masks is not None
    for file in masks.directory.iterdir():
        file.unlink()
    again = replace(metric, encoder=replace(metric.encoder, batch_size=63))
    assert again.score(items) == expected
    assert masks.names() == set()


def test_other_settings_or_weights_have_masks_of_their_own(tmp_path: Path) -> None:
    segmenter = Reddish(boxes=WholeImageBoxes(), limit=100)
    stores = [
        MaskStore(tmp_path, one) for one in (segmenter, replace(segmenter, limit=99), replace(segmenter, version="2"))
    ]
    stores[0].keep("a" * 64, "dog", np.ones((2, 2), dtype=np.bool_))
    assert [len(store.names()) for store in stores] == [1, 0, 0]
    assert len({store.directory for store in stores}) == 3


def test_weights_are_not_looked_for_where_no_such_segmenter_was_at_work(tmp_path: Path) -> None:
    class Elsewhere(Reddish):
        def weights(self) -> Mapping[str, str]:
            raise AssertionError

    MaskStore(tmp_path, Reddish(boxes=WholeImageBoxes(), limit=1)).keep("a", "dog", np.ones((1, 1), dtype=np.bool_))
    assert MaskStore(tmp_path, Elsewhere(boxes=WholeImageBoxes(), limit=1)).names() == set()
    assert MaskStore(tmp_path / "none", Elsewhere(boxes=WholeImageBoxes(), limit=1)).names() == set()


def test_many_that_keep_the_same_masks_leave_each_whole(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    masks = {f"{number:064}"[::-1]: generator.random((37, 61)) > 0.5 for number in range(20)}
    stores = [MaskStore(tmp_path, Reddish(boxes=WholeImageBoxes(), limit=1)) for _ in range(8)]

    def keep(store: MaskStore) -> None:
        for digest, mask in masks.items():
            store.keep(digest, "a/b ∞", mask)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(keep, stores))
    assert {file.name for file in stores[0].directory.iterdir()} == stores[0].names()
    for digest, mask in masks.items():
        np.testing.assert_array_equal(read_mask(stores[0].directory / mask_name(digest, "a/b ∞")), mask)


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=r"a\.png"):
        read_mask(tmp_path / "a.png")


def test_a_metric_that_segments_nothing_has_no_masks(clip: ClipSpec) -> None:
    assert ClipI(encoder=replace(clip, store="/anywhere")).masks() is None
