"""A tracker for TensorBoard, which writes event files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from knowcusbench.storage.files import local_path
from knowcusbench.storage.images import read_image
from knowcusbench.tracking.base import Tracker, imported


@dataclass(kw_only=True)
class TensorBoard(Tracker):
    """Event files in `directory`/<run>/<method>; `tensorboard --logdir DIRECTORY` shows them.

    Attributes:
        directory: the directory of all runs.
    """

    directory: str
    writer: Any = field(default=None, init=False)

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        imported("tensorboard", "tensorboard")
        place = str(local_path(self.directory) / name)
        self.writer = imported("torch.utils.tensorboard", "tensorboard").SummaryWriter(place)
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        self.writer.add_text("config", f"```yaml\n{text}\n```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def artifact(self, path: Path) -> None:
        if path.suffix == ".png":
            self.writer.add_image(path.stem, np.asarray(read_image(path)), dataformats="HWC")
        elif path.suffix == ".md":
            self.writer.add_text(path.stem, path.read_text(encoding="utf-8"))

    def finish(self) -> None:
        self.writer.close()
