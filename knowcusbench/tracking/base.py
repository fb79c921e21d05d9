"""The contract of a tracker."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knowcusbench.errors import ConfigError


class Tracker(ABC):
    """Receives what a command does to a method of a run, in this order: `start`, any number of `log` and `artifact`,
    `finish`.

    A tracker is a keyword-only dataclass; `configs/tracker/<name>.yaml` names it by `_target_` and fills its fields.
    """

    @abstractmethod
    def start(self, name: str, config: Mapping[str, Any]) -> None:
        """Begin with the run `name` ("<run>/<method>") and its resolved configuration. Raises ConfigError for a package
        that is missing and a place that can't be had."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, with slashes in them ("seconds/adapt"). Steps of one name ascend."""

    @abstractmethod
    def artifact(self, path: Path) -> None:
        """A file of the report."""

    @abstractmethod
    def finish(self) -> None:
        """Nothing more will come. Called after an error too."""


def imported(module: str, package: str) -> Any:
    """A module of a package that is not required. Raises ConfigError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"tracker: needs {package} ({error}); pip install {package}") from error
