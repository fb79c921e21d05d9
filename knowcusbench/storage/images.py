"""Reading image files, with one conversion to 8-bit RGB for references, generated images and checks alike.

An image that two parts of the harness decode in different ways (rotated or not, transparent or black) gets two
different scores, so no other module opens image files.
"""

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from knowcusbench.errors import ImageError
from knowcusbench.storage.files import LFS_POINTER

MAX_PIXELS = 89_478_485
"""Largest number of pixels of an image that is read. This is the size at which Pillow itself warns of a decompression
bomb (a quarter of a gibibyte at 3 bytes a pixel)."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that are read, by Pillow's names. Others are refused: some decoders run programs (EPS)."""

ALPHA = "alpha"
CMYK = "cmyk"
EXIF_ROTATION = "exif rotation"
PALETTE = "palette"
SIXTEEN_BIT = "16-bit"

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that brings an image upright, by its EXIF orientation."""

_FOREIGN = (
    (rb"....ftyp(?:heic|heix|heim|heis|hevc|hevx|mif1|msf1)", "HEIC"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"\x00\x00\x00\x0cJXL |\xff\x0a", "JPEG XL"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"8BPS", "Photoshop"),
    (rb"\s*(?:<\?xml[^>]*>\s*)?<svg", "SVG"),
    (rb"%PDF", "PDF"),
)
"""Formats that are not read, by the first bytes of their files."""

_BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """An image as the harness sees it, and the conversions that it needed.

    Attributes:
        image: 8-bit RGB.
        treatments: special conversions that were applied ("exif rotation", "16-bit", "palette", "cmyk" and "alpha") and
            the colour profile that was ignored; empty for an ordinary RGB or grey image.
        sample: the sample id in the file's text chunks; empty if they have none.
    """

    image: Image.Image
    treatments: tuple[str, ...]
    sample: str = ""


def read_image(path: Path) -> Image.Image:
    """Read an image file as 8-bit RGB.

    The conversion, in this order:

    1. The EXIF orientation is applied.
    2. The values v of a 16-bit grey file become round(v / 257), so that 65535 becomes 255. Pillow's decoder reduces
       16-bit colour by keeping the high byte.
    3. Transparency (an alpha channel, a transparent palette entry or colour) is composited on white.
    4. Everything else (palette, grey, CMYK, YCbCr, ...) goes through Pillow's `convert("RGB")`.

    Colour profiles (ICC) are ignored: pixel values are taken as sRGB. Of an animation, only the first frame is read.

    Raises ImageError, naming the file, if it is missing, of no known format, damaged or truncated, has more than
    `MAX_PIXELS` pixels, or has floating-point or 32-bit values, for which no range is defined.
    """
    return decode_image(path).image


def decode_image(path: Path) -> DecodedImage:
    """Read an image as by `read_image`, and record which special conversions it needed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: image can't be read: {error.strerror}") from error
    if not data:
        raise ImageError(f"{path}: image file is empty")
    try:
        # Turn Pillow's warning into an error, for this block only.
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _refuse_bomb(image, path)
                image.load()
                return _convert(image, path)
    except _BOMB_ERRORS as error:
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        size = f"{int(pixels[1]):,}" if pixels else "too many"
        raise ImageError(
            f"{path}: {size} pixels, at most {MAX_PIXELS:,} are read (a small file with more may be a decompression "
            "bomb); scale it down"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: {_what_it_is(data)}") from error
    except (ImageError, MemoryError):
        raise
    # On a damaged file Pillow's plugins raise errors of many types: OSError, ValueError, SyntaxError, KeyError,
    # struct.error, zlib.error and more.
    except Exception as error:
        raise ImageError(f"{path}: damaged or truncated image: {str(error) or type(error).__name__}") from error


def _what_it_is(data: bytes) -> str:
    if data.startswith(LFS_POINTER):
        return "a Git LFS pointer in place of the image; run `git lfs pull`"
    for beginning, name in _FOREIGN:
        if re.match(beginning, data, re.DOTALL):
            return f"a file in the format {name}, which isn't read; convert it to PNG or JPEG"
    return f"not an image, expected one of {', '.join(FORMATS)}"


def _refuse_bomb(image: Image.Image, path: Path) -> None:
    # Pillow's own check follows a global that any other package may have raised or switched off.
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{path}: ({image.width * image.height} pixels)")


def _convert(image: Image.Image, path: Path) -> DecodedImage:
    treatments = []
    sample = str(image.info.get("sample", ""))
    profile, is_16_bit = _foreign_profile(image), _is_16_bit(image)
    # Not `ImageOps.exif_transpose`: it rewrites the EXIF data, and fails on cameras' data that can't be rewritten.
    if (turn := _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))) is not None:
        treatments.append(EXIF_ROTATION)
        image = image.transpose(turn)
    if image.mode.startswith("I"):
        if not is_16_bit:
            raise ImageError(f"{path}: 32-bit pixels have no defined range, save it as 8-bit RGB")
        treatments.append(SIXTEEN_BIT)
        image = _grey_16_to_8(image)
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
    if profile:
        treatments.append(f"colour profile {profile!r} taken for sRGB")
    return DecodedImage(image=image.convert("RGB"), treatments=tuple(treatments), sample=sample)


def _is_16_bit(image: Image.Image) -> bool:
    """Return whether the file stored unsigned 16-bit integers, by its format and not by its values.

    Pillow's mode "I" also holds the 32-bit and signed integers of TIFF.
    """
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def _foreign_profile(image: Image.Image) -> str:
    """Return the name of an image's colour profile if it is not sRGB, else ""."""
    data = image.info.get("icc_profile")
    if not data:
        return ""
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(data))).strip()
    except (OSError, ImageCms.PyCMSError):
        return "unreadable"
    return "" if "srgb" in name.casefold() else name or "without a name"


def _grey_16_to_8(image: Image.Image) -> Image.Image:
    import numpy as np

    values = np.asarray(image).astype(np.int64)
    # 257 is odd, so adding its half and dividing rounds to nearest without ties.
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
