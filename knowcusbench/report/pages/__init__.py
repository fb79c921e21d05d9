"""The report as web pages: `write_html` writes `index.html`, the gallery and their assets.

The pages open from disk, need no network, and show their tables and pictures without JavaScript too.
"""

from knowcusbench.report.pages.pages import write_html
from knowcusbench.report.pages.types import Failure, GalleryInput, MaskLayer, PagesInput, ScoredMask

__all__ = ["Failure", "GalleryInput", "MaskLayer", "PagesInput", "ScoredMask", "write_html"]
