"""The grid of pictures."""

from pathlib import Path

import pytest
from PIL import Image, ImageFont

from knowcusbench.errors import ImageError
from knowcusbench.report.figures.pictures import GAP, SIDE, TEXT, PictureRow, picture_grid, shortened

FIRST_TOP = 2 * (TEXT + GAP) + GAP


def painted(path: Path, colour: str, size: tuple[int, int]) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def test_pictures_stand_below_their_columns_in_order(tmp_path: Path) -> None:
    red = painted(tmp_path / "red.png", "red", (64, 64))
    blue = painted(tmp_path / "blue.png", "blue", (64, 64))
    rows = [PictureRow("one", [red, blue]), PictureRow("two", [blue, None])]
    grid = picture_grid(["a", "b"], rows)

    def centre(row: int, column: int) -> tuple[int, ...]:
        left = GAP + column * (SIDE + GAP)
        top = FIRST_TOP + row * (SIDE + GAP + TEXT + GAP)
        return grid.getpixel((left + SIDE // 2, top + SIDE // 2))

    assert [centre(0, 0), centre(0, 1), centre(1, 0)] == [(255, 0, 0), (0, 0, 255), (0, 0, 255)]
    assert centre(1, 1) == (255, 255, 255)
    assert grid.width == 3 * GAP + 2 * SIDE


def test_small_pictures_grow_by_whole_factors(tmp_path: Path) -> None:
    pattern = Image.new("RGB", (64, 64), "white")
    pattern.putpixel((10, 20), (0, 0, 0))
    pattern.save(tmp_path / "dot.png")
    grid = picture_grid(["a"], [PictureRow("", [tmp_path / "dot.png"])]).convert("L")
    shown = grid.crop((GAP, FIRST_TOP, GAP + SIDE, FIRST_TOP + SIDE))
    margin = (SIDE - 128) // 2
    dark = [(x, y) for x in range(SIDE) for y in range(SIDE) if shown.getpixel((x, y)) == 0]
    assert dark == [(margin + x, margin + y) for x in (20, 21) for y in (40, 41)]


def test_large_pictures_keep_their_shape(tmp_path: Path) -> None:
    wide = painted(tmp_path / "wide.png", "red", (640, 320))
    grid = picture_grid(["a"], [PictureRow("", [wide])])
    column = [grid.getpixel((GAP + SIDE // 2, FIRST_TOP + y)) for y in range(SIDE)]
    assert column.count((255, 0, 0)) == SIDE // 2


def test_names_stay_above_their_columns() -> None:
    font = ImageFont.load_default(TEXT)
    assert shortened("mokus", font, SIDE) == "mokus"
    cut = shortened("mokus,recipe.ultraedit.eta=0.001", font, SIDE)
    assert cut.startswith("mokus,recipe")
    assert cut.endswith("...")
    assert SIDE - 20 < font.getlength(cut) <= SIDE
    assert shortened("mokus", font, 1) == ""


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=r"bad.png"):
        picture_grid(["a"], [PictureRow("", [tmp_path / "bad.png"])])
