"""Words in any script are drawn, or it is said that no font has them."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import ImageFont

from knowcusbench.report import fonts
from knowcusbench.report.figures import write_figure
from knowcusbench.report.pictures import PictureRow, picture_grid


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(fonts, "say", lines.append)
    fonts._say_missing.cache_clear()
    return lines


def without(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    found = fonts._installed()[:kept]
    monkeypatch.setattr(fonts, "_installed", lambda: found)


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


def test_pictures_of_decomposed_accents_are_those_of_composed_ones() -> None:
    first, second = (np.asarray(picture_grid([name], [PictureRow(name, [])])) for name in ("Café", "Cafe\u0301"))
    np.testing.assert_array_equal(first, second)
