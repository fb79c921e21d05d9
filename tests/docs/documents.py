"""What stands in the documents: code blocks, commands, settings and links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = tuple(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))
DOCUMENTS = (*TOP, *sorted((ROOT / "docs").glob("*.md")))

FENCE = re.compile(r"^( *)```(\w*|\{[\w-]+\})\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SETTING = re.compile(r"[A-Za-z_][\w./]*=\S*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PROGRAMS = ("knowcusbench", "make", "sbatch")


@dataclass(frozen=True)
class Block:
    """A fenced code block, and the heading that it stands under."""

    document: Path
    heading: str
    language: str
    text: str


def blocks(document: Path) -> Iterator[Block]:
    text = document.read_text()
    for found in FENCE.finditer(text):
        headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text[: found.start()]), re.MULTILINE)
        yield Block(document, headings[-1] if headings else "", found[2], found[3])


def prose(document: Path) -> str:
    """The text without code blocks and comments."""
    return COMMENT.sub("", FENCE.sub("", document.read_text()))


def inline(document: Path) -> list[str]:
    """The pieces of code in running text, each once."""
    return list(dict.fromkeys(INLINE.findall(prose(document))))


def commands(document: Path) -> list[str]:
    """Every command of the document, from its bash blocks and from running text, without comments."""
    lines = [
        line
        for block in blocks(document)
        if block.language == "bash"
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    lines += [code for code in inline(document) if code.split()[0].rpartition("/")[2] in PROGRAMS and " " in code]
    return list(dict.fromkeys(shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))))


def settings(document: Path) -> list[str]:
    """The `key=value` of running text, each once; those of commands aside."""
    known = set(commands(document))
    found = [word for code in inline(document) if code not in known for word in _words(code)]
    return list(dict.fromkeys(word for word in found if SETTING.fullmatch(word)))


def _words(code: str) -> list[str]:
    try:
        return shlex.split(code)
    except ValueError:
        return []


def links(document: Path) -> list[str]:
    """The targets of all links that are not on the network."""
    return [link for link in LINK.findall(prose(document)) if "://" not in link]


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(document), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return names
