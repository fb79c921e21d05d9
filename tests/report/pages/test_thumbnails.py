"""Pictures of the gallery are made once, and again when their image changes."""

import os

import numpy as np
import pytest
from PIL import Image

from knowcusbench.report.pages.thumbnails import Picture, outdated, write_pictures


@pytest.fixture
def picture(tmp_path):
    """Return a function that writes an image of a size, and returns its picture."""

    def make(size, name="a"):
        source = tmp_path / "images" / f"{name}.png"
        source.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(source)
        return Picture(source, tmp_path / "made" / name)

    return make


def test_a_large_image_has_both_sizes(picture):
    one = picture((2000, 1000))
    assert write_pictures([one]) == []
    assert Image.open(one.small).size == (192, 96)
    assert Image.open(one.large).size == (1024, 512)


def test_an_image_between_the_sizes_keeps_its_own(picture):
    one = picture((400, 400))
    write_pictures([one])
    assert Image.open(one.large).size == (400, 400)


def test_a_tiny_image_is_enlarged_by_a_whole_factor_and_has_no_large_one(picture):
    one = picture((64, 64))
    write_pictures([one])
    small = Image.open(one.small)
    assert small.size == (192, 192)
    assert not one.large.exists()
    there = np.asarray(small.convert("RGB")).astype(float)
    expected = np.asarray(Image.open(one.source).resize((192, 192), Image.Resampling.NEAREST)).astype(float)
    assert np.abs(there - expected).mean() < 25


def test_only_what_is_missing_or_older_than_its_image_is_made(picture):
    both = [picture((64, 64), "a"), picture((64, 64), "b")]
    assert outdated(both) == both
    write_pictures(both[:1])
    assert outdated(both) == both[1:]
    write_pictures(both)
    assert outdated(both) == []
    later = both[0].small.stat().st_mtime + 10
    os.utime(both[0].source, (later, later))
    assert outdated(both) == both[:1]


def test_an_image_that_cant_be_read_is_named_and_leaves_no_picture(picture):
    good, bad = picture((64, 64), "a"), picture((400, 400), "b")
    write_pictures([bad])
    bad.source.write_bytes(b"damaged")
    (fault,) = write_pictures([good, bad])
    assert str(bad.source) in fault
    assert good.small.exists()
    assert not bad.small.exists()
    assert not bad.large.exists()
