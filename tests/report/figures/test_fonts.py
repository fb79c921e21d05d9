"""Text in any script is drawn; a warning names characters that no font has."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import ImageFont

from knowcusbench.report.figures import fonts
from knowcusbench.report.figures.pictures import PictureRow, picture_grid
from knowcusbench.report.figures.style import write_figure

LATE = "\U00010600"
"""A letter of Linear A."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(fonts, "say", lines.append)
    fonts._say_missing.cache_clear()
    return lines


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Return the path of a font with a letter of Linear A, installed after matplotlib made its list of fonts."""
    font = TTFont(fonts._installed()[0][1])
    for table in font["cmap"].tables:
        if table.isUnicode() and table.format == 12:
            table.cmap[ord(LATE)] = "A"
    for record in font["name"].names:
        record.string = "Late Comer"
    font.save(tmp_path / "late.ttf")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "late.ttf")])
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    caches = (fonts._installed, fonts._newly_installed, fonts._anywhere)
    for kept in caches:
        kept.cache_clear()
    yield str(tmp_path / "late.ttf")
    for kept in caches:
        kept.cache_clear()


def without(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    found = fonts._installed()[:kept]
    for name in ("_installed", "_newly_installed"):
        monkeypatch.setattr(fonts, name, lambda: found)


def box(font: fonts.Font) -> bytes:
    return bytes(font.getmask("\U0010fffd"))


@pytest.mark.parametrize("text", ["a dog", "method=a_b [1] 5%"])
def test_what_pillows_font_has_is_drawn_in_it(text: str, said: list[str]) -> None:
    assert fonts.picture_font(text, 15).getname() == ImageFont.load_default(15).getname()
    assert not said


@pytest.mark.parametrize("text", ["Café", "Привет, мир", "σκύλος", "a → b"])
def test_other_letters_are_drawn_in_an_installed_font_that_has_them(text: str, said: list[str]) -> None:
    font = fonts.picture_font(text, 15)
    assert all(bytes(font.getmask(letter)) != box(font) for letter in text if not letter.isspace())
    assert not said


def test_letters_that_no_font_has_are_said_once(monkeypatch: pytest.MonkeyPatch, said: list[str], tmp_path) -> None:
    without(monkeypatch, 1)
    fonts._anywhere.cache_clear()
    row = PictureRow("海滩上的 dog", [])
    for _ in range(2):
        picture_grid(["狗"], [row])
    assert len(said) == 2
    assert "no installed font has" in said[0]
    figure = Figure()
    figure.text(0.5, 0.5, "犬")
    with pytest.warns(UserWarning, match="Glyph"):
        write_figure(tmp_path, "x", figure)
    assert "'犬'" in said[-1]


def test_a_figure_falls_back_on_a_font_that_has_the_letter(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    (usual, path), *others = fonts._installed()
    letter = next(min(more) for _, file in others if (more := fonts._characters(file) - fonts._characters(path)))
    figure = Figure()
    text = figure.text(0.5, 0.5, f"Cafe\u0301 {letter}")
    fonts.use_fallbacks(figure)
    assert text.get_fontfamily()[:1] == [usual]
    assert len(text.get_fontfamily()) == 2
    assert text.get_text().startswith("Café")
    assert not said


@pytest.mark.parametrize("family", ["Last Resort High-Efficiency", ".LastResort", "Adobe Blank", "DejaVu Sans"])
def test_fonts_that_draw_boxes_for_all_characters_have_none(family: str) -> None:
    assert fonts._has_placeholders(family) == (family != "DejaVu Sans")
    assert not any(name.startswith("Last Resort") for name, _ in fonts._installed())


def test_a_font_that_was_installed_later_is_found(late: str, said: list[str]) -> None:
    assert LATE not in fonts._anywhere()
    assert fonts.picture_font(f"a {LATE}", 15).path == late
    figure = Figure()
    text = figure.text(0.5, 0.5, f"a {LATE}")
    fonts.use_fallbacks(figure)
    assert text.get_fontfamily()[-1] == "Late Comer"
    assert not said


def test_pictures_of_decomposed_accents_are_those_of_composed_ones() -> None:
    first, second = (np.asarray(picture_grid([name], [PictureRow(name, [])])) for name in ("Café", "Cafe\u0301"))
    np.testing.assert_array_equal(first, second)
