"""A tracker that records its calls, and one that fails."""

from dataclasses import dataclass
from typing import ClassVar

from knowcusbench.tracking.base import Tracker


@dataclass(kw_only=True)
class Recorder(Tracker):
    heard: ClassVar[list[tuple]] = []
    breaks: bool = False

    def start(self, name, config):
        self.heard.append(("start", name, config))

    def log(self, values, step):
        if self.breaks:
            raise ConnectionError("nobody\nthere")
        self.heard.append(("log", dict(values), step))

    def artifact(self, path):
        self.heard.append(("artifact", path.name))

    def finish(self):
        self.heard.append(("finish",))
