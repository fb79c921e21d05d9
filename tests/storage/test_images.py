import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from knowcusbench.errors import ImageError
from knowcusbench.storage.images import MAX_PIXELS, decode_image, read_image

# The transformation of the stored rows for each EXIF orientation (EXIF 2.32, table 6), in numpy's terms.
ORIENTATIONS = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, k=-1),
    7: lambda stored: np.rot90(stored, k=2).transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, k=1),
}


@pytest.fixture
def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def pixels(path: Path) -> NDArray[np.uint8]:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def over_white(color: NDArray[np.int64], alpha: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round to nearest; exact, since all values are integers."""
    return (alpha * color + (255 - alpha) * 255 + 127) // 255


def png(width: int, height: int, bit_depth: int, color_type: int, rows: bytes) -> bytes:
    """Return a PNG file made by hand; each row begins with its filter type, 0."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_plain_rgb_is_unchanged(tmp_path: Path, noise: NDArray[np.uint8]) -> None:
    Image.fromarray(noise).save(tmp_path / "a.png")

    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), noise)
    assert decode_image(tmp_path / "a.png").treatments == ()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(tmp_path: Path, noise: NDArray[np.uint8], orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(noise).save(tmp_path / "a.png", exif=exif)

    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), ORIENTATIONS[orientation](noise))
    expected = () if orientation == 1 else ("exif rotation",)
    assert decode_image(tmp_path / "a.png").treatments == expected


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    """Compares every pair of a value and an alpha with exact integer arithmetic."""
    alpha, value = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([value, value, 255 - value, alpha], axis=-1).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")

    result = pixels(tmp_path / "a.png")

    np.testing.assert_array_equal(result[..., 0], over_white(value, alpha))
    np.testing.assert_array_equal(result[..., 2], over_white(255 - value, alpha))
    assert decode_image(tmp_path / "a.png").treatments == ("alpha",)


def test_grey_with_alpha_is_composited_on_white(tmp_path: Path) -> None:
    grey_alpha = np.array([[[0, 0], [0, 128], [100, 255], [100, 51]]], dtype=np.uint8)
    Image.fromarray(grey_alpha, "LA").save(tmp_path / "a.png")

    # 255 * (1 - 128/255) = 127, and 100 * 0.2 + 255 * 0.8 = 224.
    assert pixels(tmp_path / "a.png")[0].tolist() == [[255] * 3, [127] * 3, [100] * 3, [224] * 3]


def test_palette_entries_become_colours_and_transparent_ones_white(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "transparent.png", transparency=1)

    assert pixels(tmp_path / "opaque.png")[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert decode_image(tmp_path / "opaque.png").treatments == ("palette",)
    assert pixels(tmp_path / "transparent.png")[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
    assert decode_image(tmp_path / "transparent.png").treatments == ("palette", "alpha")


def test_a_transparent_colour_becomes_white(tmp_path: Path) -> None:
    rgb = np.array([[[10, 20, 30], [10, 20, 31]]], dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png", transparency=(10, 20, 30))

    assert pixels(tmp_path / "a.png")[0].tolist() == [[255, 255, 255], [10, 20, 31]]


@pytest.mark.parametrize(("name", "dtype"), [("a.png", np.uint16), ("a.tif", np.uint16), ("big_endian.tif", ">u2")])
def test_16_bit_grey_is_divided_by_257_and_rounded(tmp_path: Path, name: str, dtype: object) -> None:
    values = np.arange(65536).reshape(256, 256)
    Image.fromarray(values.astype(dtype)).save(tmp_path / name)

    expected = np.rint(values / 257)
    for channel in np.moveaxis(pixels(tmp_path / name), -1, 0):
        np.testing.assert_array_equal(channel, expected)
    assert decode_image(tmp_path / name).treatments == ("16-bit",)


def test_16_bit_colour_keeps_the_high_byte(tmp_path: Path) -> None:
    row = b"\x00" + struct.pack(">6H", 0x0000, 0x01FF, 0x1280, 0xFFFF, 0xFE00, 0x7F01)
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, row))

    assert pixels(tmp_path / "a.png")[0].tolist() == [[0x00, 0x01, 0x12], [0xFF, 0xFE, 0x7F]]


@pytest.mark.parametrize("values", [[[0, 70000]], [[-1, 5]], [[0, 255]], [[0, 65535]], [[0, 0]]])
def test_32_bit_values_have_no_range_and_are_refused(tmp_path: Path, values: list[list[int]]) -> None:
    Image.fromarray(np.array(values, dtype=np.int32)).save(tmp_path / "a.tif")

    with pytest.raises(ImageError, match=r"a\.tif: 32-bit"):
        read_image(tmp_path / "a.tif")


def test_floating_point_values_have_no_range_and_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")

    with pytest.raises(ImageError, match=r"a\.tif: floating-point"):
        read_image(tmp_path / "a.tif")


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")

    white, cyan, magenta, black = [255] * 3, [0, 255, 255], [255, 0, 255], [0] * 3
    assert pixels(tmp_path / "a.tif")[0].tolist() == [white, cyan, magenta, black]
    assert decode_image(tmp_path / "a.tif").treatments == ("cmyk",)


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (ExifTags.Base.ExposureBiasValue, 10, struct.pack("<ii", -1, 0)),
        (ExifTags.Base.ImageWidth, 9, struct.pack("<i", -5)),
        (ExifTags.Base.ImageWidth, 4, struct.pack("<I", 2**32 - 1)),
        (ExifTags.Base.MakerNote, 7, b"\xff\xfe\xfd\xfc"),
    ],
)
def test_exif_that_cant_be_written_again_does_no_harm(
    tmp_path: Path, noise: NDArray[np.uint8], tag: int, kind: int, value: bytes
) -> None:
    """Return an EXIF block made by hand, with orientation 6 and one more entry."""
    place = value + b"\0" * (4 - len(value)) if len(value) <= 4 else struct.pack("<I", 8 + 2 + 2 * 12 + 4)
    entries = [
        struct.pack("<HHII", ExifTags.Base.Orientation, 3, 1, 6),
        struct.pack("<HHI", tag, kind, len(value) if kind == 7 else 1) + place,
    ]
    block = b"II*\0" + struct.pack("<IH", 8, 2) + b"".join(sorted(entries)) + struct.pack("<I", 0) + value
    Image.fromarray(noise).save(tmp_path / "a.png", exif=b"Exif\0\0" + block)

    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), ORIENTATIONS[6](noise))


@pytest.mark.parametrize("raised", [struct.error("x"), OverflowError(), KeyError("k"), TypeError("t"), zlib.error("z")])
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path: Path, noise: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    Image.fromarray(noise).save(tmp_path / "a.png")

    def load(self: ImageFile.ImageFile) -> None:
        raise raised

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ImageError, match=r"a\.png: damaged or truncated image: ."):
        read_image(tmp_path / "a.png")


def test_colour_profiles_are_ignored(tmp_path: Path, noise: NDArray[np.uint8]) -> None:
    from PIL import ImageCms

    for kind, treatments in (("XYZ", ("colour profile 'XYZ identity built-in' taken for sRGB",)), ("sRGB", ())):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes()
        Image.fromarray(noise).save(tmp_path / "a.png", icc_profile=profile)

        np.testing.assert_array_equal(pixels(tmp_path / "a.png"), noise)
        assert decode_image(tmp_path / "a.png").treatments == treatments


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    for name, options in (("a.webp", {"lossless": True}), ("a.gif", {}), ("a.png", {})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)

        assert pixels(tmp_path / name)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("mode", "neutral"), [("YCbCr", 128), ("LAB", 0)])
def test_other_colour_spaces_become_rgb(tmp_path: Path, mode: str, neutral: int) -> None:
    """Greys have no colour in either space, so lightness alone identifies them. TIFF's a* and b* are signed."""
    greys = np.repeat(np.array([[0, 255]], dtype=np.uint8)[..., None], 3, axis=-1)
    greys[..., 1:] = neutral
    Image.fromarray(greys, mode).save(tmp_path / "a.tif")

    np.testing.assert_allclose(pixels(tmp_path / "a.tif"), [[[0] * 3, [255] * 3]], atol=1)


def test_16_bit_grey_with_alpha_keeps_the_high_byte_over_white(tmp_path: Path) -> None:
    row = b"\x00" + struct.pack(">6H", 0x1280, 0xFFFF, 0x1280, 0x0000, 0xFE00, 0xFFFF)
    (tmp_path / "a.png").write_bytes(png(3, 1, 16, 4, row))

    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0x12, 255, 0xFE]


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp"])
def test_bytes_behind_an_image_are_passed_over(tmp_path: Path, noise: NDArray[np.uint8], suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    before = pixels(path)
    path.write_bytes(path.read_bytes() + b"trailing" * 50)

    np.testing.assert_array_equal(pixels(path), before)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing\.png: image can't be read: No such file"):
        read_image(tmp_path / "missing.png")


def test_a_folder_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="Is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"not a picture", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (png(0, 5, 8, 2, b""), "not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a Git LFS pointer .*git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, which isn't read; convert it to PNG or JPEG"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF, which"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL, which"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000, which"),
        (b"8BPS\0\1", "Photoshop, which"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "SVG, which"),
    ],
    ids=["empty", "text", "runs programs", "zero width", "lfs", "heic", "avif", "jxl", "jp2", "psd", "svg"],
)
def test_what_is_no_image_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(data)

    with pytest.raises(ImageError, match=rf"a\.png: .*{message}"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "gif"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_image_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(ImageError) as caught:
        read_image(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [9_500, 20_000], ids=["where Pillow warns", "where Pillow refuses"])
@pytest.mark.parametrize("pillow_limit", [MAX_PIXELS, None], ids=["limit", "limit switched off"])
def test_decompression_bombs_are_refused_without_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    side: int,
    pillow_limit: int | None,
) -> None:
    (tmp_path / "bomb.png").write_bytes(png(side, side, 8, 2, b""))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)

    with pytest.raises(ImageError, match=f"{side * side:,} pixels, at most 89,478,485 .*decompression bomb.*scale it"):
        read_image(tmp_path / "bomb.png")

    assert recwarn.list == []


def test_pillow_is_left_as_it_was(tmp_path: Path, noise: NDArray[np.uint8]) -> None:
    Image.fromarray(noise).save(tmp_path / "a.png")
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))

    read_image(tmp_path / "a.png")

    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before
