"""The PNG encoder against Pillow's decoder."""

import io

import numpy as np
import pytest
from PIL import Image

from knowcusbench.toybox.world.png import encode_png


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_other_decoders_read_the_same_pixels(channels: int, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, channels), dtype=np.uint8)
    image = Image.open(io.BytesIO(encode_png(pixels)))
    image.load()
    assert image.format == "PNG"
    assert image.mode == mode
    assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_pictures_that_do_not_fit_are_refused() -> None:
    encode_png(np.zeros((255, 256, 1), dtype=np.uint8))
    with pytest.raises(ValueError, match="65536 bytes"):
        encode_png(np.zeros((256, 255, 1), dtype=np.uint8))
