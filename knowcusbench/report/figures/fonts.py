"""Fonts for users' texts in any script: the default one, or an installed one that has all of the characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from PIL import ImageFont

from knowcusbench.machine.progress import say
from knowcusbench.report.figures.backend import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFERRED = ("DejaVu Sans", "Noto Sans", "Source Han Sans", "WenQuanYi", "Droid Sans", "Arial Unicode MS", "Unifont")
"""Prefixes of the families tried first."""

PLACEHOLDERS = ("lastresort", "adobeblank")
"""Prefixes of the families, letters only, that have a box or nothing for every character.

Matplotlib has shipped one since 3.11.
"""

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def composed(text: str) -> str:
    """Return a text with composed accents (NFC): few fonts place combining accents."""
    return unicodedata.normalize("NFC", text)


def picture_font(text: str, size: float) -> Font:
    """Return Pillow's own font, or an installed one that has every character of `text`. Warn if none has."""
    usual = ImageFont.load_default(size)
    if not _unknown_to_pillow(text):
        return usual
    for _, path in _fonts_for(_visible(text)):
        if _visible(text) <= _characters(path):
            return ImageFont.truetype(path, size)
    _say_missing("".join(sorted(_unknown_to_pillow(text) - _anywhere())) or text)
    return usual


def use_fallbacks(figure: Figure) -> None:
    """Let every text of a figure fall back on installed fonts for characters that the default one lacks.

    Warns if no font has them.
    """
    from matplotlib.text import Text

    installed = _installed()
    usual = _characters(installed[0][1])
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(composed(text.get_text()))
        wanting = _visible(text.get_text()) - usual
        families = [installed[0][0]]
        for family, path in _fonts_for(wanting) if wanting else ():
            if found := wanting & _characters(path):
                families.append(family)
                wanting = wanting - found
        if len(families) > 1:
            text.set_fontfamily(families)
        if wanting:
            _say_missing("".join(sorted(wanting)))


def _fonts_for(characters: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Return the fonts to search for characters.

    Fonts that matplotlib does not know yet are searched only where a known one lacks characters.
    """
    return _installed() if characters <= _anywhere() else _newly_installed()


@cache
def _newly_installed() -> tuple[tuple[str, str], ...]:
    """Return `_installed` with the fonts installed since matplotlib cached its list in a file."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {font.fname for font in fontManager.ttflist}
    for path in sorted({*findSystemFonts()} - known):
        # A file that FreeType can't open is not a usable font.
        with suppress(OSError, RuntimeError):
            fontManager.addfont(path)
    _installed.cache_clear()
    _anywhere.cache_clear()
    return _installed()


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Return family and file of the regular fonts that matplotlib finds, preferred ones first."""
    import_matplotlib()
    from matplotlib.font_manager import fontManager

    def order(family: str) -> int:
        return next((place for place, start in enumerate(PREFERRED) if family.startswith(start)), len(PREFERRED))

    regular = {
        (font.name, font.fname)
        for font in fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal", "regular") and not _has_placeholders(font.name)
    }
    return tuple(sorted(regular, key=lambda font: (order(font[0]), font)))


def _has_placeholders(family: str) -> bool:
    return "".join(filter(str.isalpha, family)).lower().startswith(PLACEHOLDERS)


@cache
def _characters(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _anywhere() -> frozenset[str]:
    return frozenset().union(*(_characters(path) for _, path in _installed()))


@cache
def _unknown_to_pillow(text: str) -> frozenset[str]:
    font = ImageFont.load_default(20)
    box = bytes(font.getmask("\U0010fffd"))
    return frozenset(sign for sign in _visible(text) if bytes(font.getmask(sign)) == box)


def _visible(text: Iterable[str]) -> frozenset[str]:
    return frozenset(sign for sign in text if not sign.isspace() and unicodedata.category(sign) != "Cf")


@cache
def _say_missing(characters: str) -> None:
    say(
        f"knowcusbench: no installed font has {characters[:20]!r}, boxes are drawn in figures; install one that has, "
        "such as Noto Sans CJK"
    )
