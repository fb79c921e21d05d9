"""Import of matplotlib in processes of any kind."""

import os
from functools import cache


@cache
def import_matplotlib() -> None:
    """Import matplotlib, whatever `MPLBACKEND` says.

    A notebook sets it, for its shell commands too, to a back end that may be missing from this environment; matplotlib
    then refuses to be imported. Figures are written to files, which needs no back end.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib  # noqa: F401
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
