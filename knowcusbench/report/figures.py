"""What all figures share: their style, and how they are written."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from knowcusbench.files import atomic_path

STYLE: Any = {"text.parse_math": False, "pdf.fonttype": 42}
"""For `matplotlib.rc_context`: a `$` in a label is a `$`, and the text of a PDF is text."""


@rc_context(STYLE)
def write_figure(directory: Path, name: str, figure: Figure, dpi: int = 150) -> list[Path]:
    """Write `<name>.png` and `<name>.pdf` to `directory`, replacing earlier ones, and return the paths."""
    paths = []
    # The time of writing left out of both: same results, same bytes.
    for kind, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        path = directory / f"{name}.{kind}"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata)
        paths.append(path)
    return paths
