"""Style and files of all figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcusbench.report.figures.backend import import_matplotlib
from knowcusbench.report.figures.fonts import use_fallbacks
from knowcusbench.storage.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: Any = {"text.parse_math": False, "pdf.fonttype": 42}
"""Settings of `matplotlib.rc_context`: a `$` in a label is a `$`, and the text of a PDF is text."""


@contextmanager
def styled() -> Iterator[None]:
    """Make matplotlib draw in `STYLE` for the duration of a block, or of the decorated function.

    Inside, all of matplotlib can be imported.
    """
    import_matplotlib()
    from matplotlib import rc_context

    with rc_context(STYLE):
        yield


@styled()
def write_figure(directory: Path, name: str, figure: Figure, dpi: int = 150) -> list[Path]:
    """Write `<name>.png` and `<name>.pdf` to `directory`, replacing earlier ones, and return the paths."""
    use_fallbacks(figure)
    if figure.get_layout_engine():
        # Lay out once, not for each format.
        figure.set_dpi(dpi)
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
    paths = []
    # Neither format stores the time of writing: same results, same bytes.
    for kind, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        path = directory / f"{name}.{kind}"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata)
        paths.append(path)
    return paths
