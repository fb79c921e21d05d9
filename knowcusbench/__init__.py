"""knowcusbench: benchmark of knowledge-aware concept customization of text-to-image models.

`bench`, `score` and `open_run` are what the command does, from Python; the other names are what a method, a metric or
an editor of one's own is made of. Every name is imported when it is first used.
"""

from typing import Any

import lazy_loader

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    return _lazy(name)
