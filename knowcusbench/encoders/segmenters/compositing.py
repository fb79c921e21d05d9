"""Painting the background outside a mask, and cropping to the mask."""

import numpy as np
from PIL import Image

from knowcusbench.encoders.segmenters.base import Mask


def cut_out(image: Image.Image, mask: Mask, background: tuple[int, int, int], crop: bool) -> Image.Image:
    """Return the RGB image with everything outside the mask in one colour.

    Args:
        image: RGB image of the mask's size.
        mask: (height, width), with at least one true pixel.
        background: the colour, 0 to 255 per channel.
        crop: whether to keep only the bounding box of the mask.

    >>> image = Image.new("RGB", (3, 1), (9, 9, 9))
    >>> np.asarray(cut_out(image, np.array([[False, True, False]]), (255, 255, 255), crop=False))[..., 0]
    array([[255,   9, 255]], dtype=uint8)
    >>> cut_out(image, np.array([[False, True, False]]), (255, 255, 255), crop=True).size
    (1, 1)
    """
    pixels = np.where(mask[..., None], np.asarray(image), np.array(background, dtype=np.uint8))
    if crop:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.fromarray(pixels)
