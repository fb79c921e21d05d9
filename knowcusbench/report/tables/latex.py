r"""The leaderboard as a LaTeX table to `\\input`, and a document that shows tables and figures.

The table is rendered from `templates/leaderboard.tex.jinja`.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from knowcusbench.analysis.columns import number
from knowcusbench.analysis.footnotes import dagger, footnotes
from knowcusbench.analysis.types import Cell, Column, Leaderboard, Mark

SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "–": r"\textendash{}",
        "—": r"\textemdash{}",
        "…": r"\dots{}",
        "≈": r"$\approx$",
        "≤": r"$\le$",
        "≥": r"$\ge$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "·": r"$\cdot$",
        "→": r"$\rightarrow$",
        "−": "$-$",
        "²": "$^{2}$",
        "³": "$^{3}$",
        "°": r"$^{\circ}$",
        "€": r"\texteuro{}",
        "†": r"$^{\dagger}$",
        "“": "``",
        "”": "''",
        "‘": "{`}",
        "’": "{'}",
        '"': "''",
        **{character: f"\\{character}" for character in "{}$&#%_"},
        # Braces keep quotes from joining into ligatures, and the others from being an argument of `\\` or `\midrule`.
        **{character: f"{{{character}}}" for character in "`'[]*"},
    }
)


GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
CAPITALS = "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
GREEK_COMMANDS = {
    unicodedata.lookup(f"GREEK {size} LETTER {name.upper().replace('LAMBDA', 'LAMDA')}"): rf"$\{name}$"
    for size, names in (("SMALL", GREEK), ("CAPITAL", CAPITALS))
    for name in names.split()
} | {"µ": r"$\mu$"}

ACCENTS = {
    unicodedata.lookup(f"COMBINING {name}"): command
    for name, command in {
        "GRAVE ACCENT": r"\`",
        "ACUTE ACCENT": r"\'",
        "CIRCUMFLEX ACCENT": r"\^",
        "TILDE": r"\~",
        "DIAERESIS": r"\"",
        "MACRON": r"\=",
        "DOT ABOVE": r"\.",
        "BREVE": r"\u",
        "CARON": r"\v",
        "RING ABOVE": r"\r",
        "CEDILLA": r"\c",
        "DOUBLE ACUTE ACCENT": r"\H",
    }.items()
}
LETTERS = {
    "ß": r"\ss{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
}


def escape_latex(text: str) -> str:
    r"""Escape `text` so that LaTeX prints it verbatim, in one line, with any engine and in any font encoding.

    Letters without a font in plain pdfLaTeX (Chinese, emoji, ...) become their code point: "U+732B".

    >>> escape_latex("50% café_1")
    "50\\% caf\\'{e}\\_1"
    """
    composed = unicodedata.normalize("NFC", text)
    escaped = " ".join(composed.split()).translate(SPECIAL)
    escaped = re.sub(r"-(?=-)", "-{}", escaped)
    return re.sub(r"[^ -~]", lambda found: _printable(found[0]), escaped)


def _printable(character: str) -> str:
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[1] in ACCENTS:
        return f"{ACCENTS[parts[1]]}{{{parts[0]}}}"
    return LETTERS.get(character) or GREEK_COMMANDS.get(character) or f"U+{ord(character):04X}"


def render_latex(board: Leaderboard) -> str:
    """Return a `tabular` with the best in bold and the second underlined, and its footnotes; it needs `booktabs`."""
    template = environment().get_template("leaderboard.tex.jinja")
    return template.render(
        board=board,
        groups=_groups(board.columns),
        sections=[list(rows) for _, rows in groupby(board.rows, key=lambda row: row.kind)],
        cells=lambda row: [_cell(column, cell) for column, cell in zip(board.columns, row.cells, strict=True)],
        footnotes=footnotes(board),
    )


def render_document(tables: Sequence[str], figures: Sequence[str]) -> str:
    r"""Return a document that compiles in the folder of its files: tables to `\\input`, figures in PDF."""
    return environment().get_template("document.tex.jinja").render(tables=tables, figures=figures)


def environment() -> Environment:
    """Return Jinja2 with delimiters that mean nothing to LaTeX."""
    made = Environment(
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        loader=PackageLoader("knowcusbench.report.tables"),
    )
    made.filters["tex"] = escape_latex
    made.filters["comment"] = lambda text: " ".join(text.split())
    return made


def _groups(columns: Sequence[Column]) -> list[tuple[str, int, int]]:
    """Return heading, first and last column (the labels' column is number 1) of neighbours with one heading."""
    spans = []
    first = 2
    for heading, members in groupby(columns, key=lambda column: column.group):
        last = first + len(list(members)) - 1
        spans.append((heading, first, last))
        first = last + 1
    return spans


def _cell(column: Column, cell: Cell) -> str:
    shown = escape_latex(number(column, cell)).replace("-", "$-$")
    if cell.mark is Mark.BEST:
        shown = rf"\textbf{{{shown}}}"
    elif cell.mark is Mark.SECOND:
        shown = rf"\underline{{{shown}}}"
    return shown + escape_latex(dagger(cell))
