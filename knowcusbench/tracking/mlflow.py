"""A tracker for MLflow."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knowcusbench.errors import ConfigError, first_line
from knowcusbench.tracking.base import Tracker, imported


@dataclass(kw_only=True)
class MLflow(Tracker):
    """A run of an MLflow experiment.

    Attributes:
        uri: URI of the tracking server, or of a database such as "sqlite:///mlflow.db". None leaves it to
            MLFLOW_TRACKING_URI.
        experiment: the experiment's name; it is created if it does not exist.
        artifacts: directory for the files of a created experiment; None leaves it to the server.
    """

    uri: str | None = None
    experiment: str = "knowcusbench"
    artifacts: str | None = None
    client: Any = field(default=None, init=False)
    run_id: str = field(default="", init=False)

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        mlflow = imported("mlflow", "mlflow")
        try:
            self.client = mlflow.MlflowClient(tracking_uri=self.uri)
            known = self.client.get_experiment_by_name(self.experiment)
            experiment = known.experiment_id if known else self._make_experiment()
            self.run_id = self.client.create_run(experiment, run_name=name).info.run_id
        except mlflow.MlflowException as error:
            raise ConfigError(
                f"tracker: MLflow can't start at {self.uri!r} ({first_line(error)}); check tracker.uri="
            ) from error
        self.client.log_dict(self.run_id, dict(config), "config.yaml")
        for key, value in _parameters(config):
            self.client.log_param(self.run_id, key, value)

    def _make_experiment(self) -> str:
        place = Path(self.artifacts).expanduser().absolute().as_uri() if self.artifacts else None
        made: str = self.client.create_experiment(self.experiment, artifact_location=place)
        return made

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run_id, name, value, step=step)

    def artifact(self, path: Path) -> None:
        self.client.log_artifact(self.run_id, str(path))

    def finish(self) -> None:
        self.client.set_terminated(self.run_id)


def _parameters(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the method's own settings, by which runs are compared; the others are in `config.yaml`."""
    for key in ("method", "editor", "recipe", "grid"):
        yield from _leaves(config.get(key), key)


def _leaves(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}")
    else:
        # MLflow limits a value to 500 characters.
        yield key, str(node)[:500]
