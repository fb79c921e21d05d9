"""Reading image files: one conversion to 8-bit RGB for references, generated images and checks alike.

An image that two parts of the harness decode in different ways (rotated or not, transparent or black) gets
two different scores, so nothing else in the project opens image files.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from knowcusbench.errors import ImageError

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused as decompression bombs: the size at which Pillow itself starts to warn
(a quarter of a gibibyte at 3 bytes a pixel)."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""The formats that are read, by Pillow's names. Others are refused: some decoders run programs (EPS)."""

ALPHA = "alpha"
CMYK = "cmyk"
EXIF_ROTATION = "exif rotation"
PALETTE = "palette"
SIXTEEN_BIT = "16-bit"

# What Pillow's decoders raise for damaged files. Most failures are OSError; a few checks inside the plugins
# surface as the other two.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError)
_BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """An image as the harness sees it, and what had to be done to it.

    Attributes:
        image: 8-bit RGB.
        treatments: which special conversions were applied, of "exif rotation", "16-bit", "palette", "cmyk"
            and "alpha"; empty for an ordinary RGB or grey image.
    """

    image: Image.Image
    treatments: tuple[str, ...]


def read_image(path: Path) -> Image.Image:
    """Read an image file as 8-bit RGB.

    The conversion, in this order:

    1. The EXIF orientation is applied.
    2. 16-bit grey values v become round(v / 257), so that 65535 becomes 255. 16-bit colour is reduced by
       Pillow's decoder, which keeps the high byte.
    3. Transparency (an alpha channel, a transparent palette entry or colour) is composited on white.
    4. Everything else (palette, grey, CMYK, YCbCr, ...) goes through Pillow's `convert("RGB")`.

    Colour profiles (ICC) are ignored: pixel values are taken as sRGB. Only the first frame of an animation
    is read.

    Raises ImageError, naming the file, if it is missing, of no known format, damaged or truncated, has more
    than `MAX_PIXELS` pixels, or has floating-point or 32-bit values, for which there is no defined range.
    """
    return decode_image(path).image


def decode_image(path: Path) -> DecodedImage:
    """`read_image`, and which special treatments it took."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: image can't be read: {error.strerror}") from error
    if not data:
        raise ImageError(f"{path}: image file is empty")
    try:
        # An error here instead of Pillow's warning, for this block only.
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _refuse_bomb(image, path)
                image.load()
                return _convert(image, path)
    except _BOMB_ERRORS as error:
        raise ImageError(f"{path}: decompression bomb: more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not an image, expected one of {', '.join(FORMATS)}") from error
    except _DECODER_ERRORS as error:
        raise ImageError(f"{path}: damaged or truncated image: {error}") from error


def _refuse_bomb(image: Image.Image, path: Path) -> None:
    # Pillow's own check follows a global that any other package may have raised or switched off.
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{path}: {image.width}x{image.height}")


def _convert(image: Image.Image, path: Path) -> DecodedImage:
    treatments = []
    if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        treatments.append(EXIF_ROTATION)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        treatments.append(SIXTEEN_BIT)
        image = _grey_16_to_8(image, path)
    if image.mode == "F":
        raise ImageError(f"{path}: floating-point pixels have no defined range, save it as 8-bit RGB")
    if image.mode in ("P", "PA"):
        treatments.append(PALETTE)
    if image.mode == "CMYK":
        treatments.append(CMYK)
    if image.has_transparency_data:
        treatments.append(ALPHA)
        translucent = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), translucent)
    return DecodedImage(image=image.convert("RGB"), treatments=tuple(treatments))


def _grey_16_to_8(image: Image.Image, path: Path) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(f"{path}: 32-bit pixels have no defined range, save it as 8-bit RGB")
    # 257 is odd, so adding its half and dividing rounds to nearest without ties.
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
