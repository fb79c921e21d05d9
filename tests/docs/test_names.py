"""Modules, classes and files that the documents name exist, and the same figure is the same wherever it stands."""

import pkgutil
import re

import pytest
from docs.documents import DOCUMENTS, ROOT, blocks, inline

DOTTED = re.compile(r"\bknowcusbench(?:\.[A-Za-z_]\w*)+")
PATH = re.compile(r"(?:knowcusbench|methods|baselines|configs|docs|tests|results/published)/[\w./-]*")
EXAMPLE = re.compile(r"my_|NAME")
"""What a reader writes."""


def missing(document):
    found = []
    for code in inline(document):
        found += [name for name in DOTTED.findall(code) if not exists(name)]
        if PATH.fullmatch(code) and not EXAMPLE.search(code) and not (ROOT / code).exists():
            found.append(code)
    return found


def exists(name):
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(document):
    assert missing(document) == []


def test_a_name_of_the_past_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`knowcusbench.storage.files` and `knowcusbench/storage/files.py` are there, "
        "`knowcusbench.storage.files.nosuch`, `knowcusbench.nosuch.files` and `knowcusbench/nosuch/files.py` are not."
    )
    assert missing(page) == [
        "knowcusbench.storage.files.nosuch",
        "knowcusbench.nosuch.files",
        "knowcusbench/nosuch/files.py",
    ]


def rows(document, heading):
    """The rows of the first table under a heading, without its two rows of titles."""
    section = document.read_text().partition(f"## {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_words_lead_to_the_code():
    names = [row[2].strip("`") for row in rows(ROOT / "docs" / "concepts.md", "Words") if row[2].startswith("`")]
    # A key of the configuration.
    names = [name for name in names if " " not in name]
    assert len(names) > 10
    assert [name for name in names if not exists(f"knowcusbench.{name}")] == []


def test_every_room_is_described():
    named = [row[0].strip("`") for row in rows(ROOT / "docs" / "architecture.md", "Rooms")]
    folders = {path.parent.name for path in (ROOT / "knowcusbench").glob("*/__init__.py")} | {"methods", "baselines"}
    assert len(named) == len({*named})
    assert folders <= {*named}
    assert [name for name in named if not exists(f"knowcusbench.{name}")] == []


def test_the_leaderboard_of_the_readme_is_the_measured_one():
    printed = next(block for block in blocks(ROOT / "docs" / "measurements.md") if not block.language)
    titles, *lines = printed.text.splitlines()[1:]
    # Four columns are of reconstructions.
    columns = [("Recon." if number < 4 else "Gen.", title) for number, title in enumerate(titles.split())]
    measured = {
        label: dict(zip(columns, [cell.rstrip("*+") for cell in cells.split()], strict=True))
        for label, cells in (re.split(r"  +(?=[\d–])", line, maxsplit=1) for line in lines)
    }
    table = rows(ROOT / "README.md", "Install and run")
    header = re.search(r"^\| \|(.*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE)[1]
    shown = [tuple(title.split(maxsplit=1)) for title in re.split(r" *\| *", header.strip())]
    assert len(table) > 3
    for label, *cells in table:
        assert cells == [measured[label][column] for column in shown]
