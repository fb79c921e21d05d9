"""How Sphinx builds these pages: `make docs`."""

import importlib.metadata
import os.path
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "knowcusbench"
version = release = importlib.metadata.version("knowcusbench")
copyright = author = "The knowcusbench authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
add_module_names = False
napoleon_use_ivar = True
nitpick_ignore_regex = [("py:class", r".*")]
"""Types of other packages, and of what is none of the public names, have no page here."""
myst_heading_anchors = 4
"""Links to headings as GitHub makes them: a broken one is a warning, and `-W` makes that an error."""

html_theme = "furo"
html_title = "knowcusbench"

GENERATED = "<!-- the reference follows -->"
"""The line of a page that the generated reference takes the place of."""

ELSEWHERE = {
    "readme": "README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "card": "knowcusbench/toybox/CARD.md",
}
"""Pages whose text lies outside this folder, by name."""

LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)(?=[#)])")


def setup(app: Any) -> None:
    app.connect("source-read", _read)


def _read(app: Any, page: str, source: list[str]) -> None:
    """The text of a page with its links as they are from this folder."""
    # Of this folder, which is no package.
    import reference

    if page in ELSEWHERE:
        source[0] = (HERE.parent / ELSEWHERE[page]).read_text()
    home = os.path.dirname(ELSEWHERE.get(page, f"docs/{page}"))
    pages = {path: f"{name}.md" for name, path in ELSEWHERE.items()}

    def placed(link: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(home, link[1]))
        return pages.get(target) or os.path.relpath(target, "docs")

    source[0] = LINK.sub(placed, source[0])
    source[0] = source[0].replace(GENERATED, reference.render() if GENERATED in source[0] else "")
