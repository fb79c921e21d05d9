"""The contract of a tracker."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knowcusbench.errors import ConfigError


class Tracker(ABC):
    """A receiver of what a command does to a method of a run.

    It is called in this order: `start`, any number of `log` and `artifact`, `finish`. A tracker is a keyword-only
    dataclass; `configs/tracker/<name>.yaml` names it by `_target_` and fills its fields.
    """

    @abstractmethod
    def start(self, name: str, config: Mapping[str, Any]) -> None:
        """Begin the run `name` ("<run>/<method>") with its resolved configuration.

        Raises ConfigError for a missing package and for an unusable path or server.
        """

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name, with slashes in the names ("seconds/adapt"). The steps of a name ascend."""

    @abstractmethod
    def artifact(self, path: Path) -> None:
        """Log a file of the report."""

    @abstractmethod
    def finish(self) -> None:
        """End the run. Called after an error too."""


def imported(module: str, package: str) -> Any:
    """Return an imported module of an optional package. Raises ConfigError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"tracker: needs {package} ({error}); pip install {package}") from error
