"""A tracker for Weights & Biases."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from knowcusbench.errors import ConfigError, first_line
from knowcusbench.storage.files import local_path
from knowcusbench.storage.images import read_image
from knowcusbench.tracking.base import Tracker, imported


@dataclass(kw_only=True)
class WandB(Tracker):
    """A run of a project. None leaves a field to wandb's own settings and environment variables.

    Attributes:
        project: the project's name.
        entity: the user or team that it belongs to.
        mode: "offline" writes the run below `directory`, for `wandb sync`; "disabled" writes nothing.
        directory: the directory of wandb's files.
    """

    project: str = "knowcusbench"
    entity: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None
    directory: str | None = None
    run: Any = field(default=None, init=False)

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        wandb = imported("wandb", "wandb")
        directory = local_path(self.directory) if self.directory else None
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
        try:
            self.run = wandb.init(
                project=self.project,
                entity=self.entity,
                mode=self.mode,
                dir=directory,
                name=name,
                config=dict(config),
                reinit="create_new",
            )
        except wandb.Error as error:
            raise ConfigError(f"tracker: wandb can't start ({first_line(error)}); try tracker.mode=offline") from error
        # wandb's own steps can't decrease, and every loss begins at step 0.
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, "step": step})

    def artifact(self, path: Path) -> None:
        if path.suffix == ".png":
            self.run.log({path.stem: imported("wandb", "wandb").Image(read_image(path)), "step": 0})
        else:
            self.run.save(str(path), base_path=str(path.parent), policy="now")

    def finish(self) -> None:
        self.run.finish()
