"""Links between documents and to files of the repository lead somewhere."""

import pytest
from docs.documents import DOCUMENTS, ROOT, anchors, links

CARD = ROOT / "knowcusbench" / "toybox" / "CARD.md"


@pytest.mark.parametrize("document", [*DOCUMENTS, CARD], ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    broken = []
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_listed_on_the_first():
    listed = set(links(ROOT / "docs" / "index.md"))
    pages = {path.name for path in DOCUMENTS if path.parent.name == "docs"}
    # This one only places the README among the pages; the link leads to the README itself.
    assert pages - listed == {"index.md", "readme.md"}
