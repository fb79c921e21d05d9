"""The calls to a tracker: configuration, seconds of stages, training losses and the leaderboard's numbers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from knowcusbench.adapters.peft_files import RECORD_FILE, load_record
from knowcusbench.config.build import build
from knowcusbench.errors import UserError, first_line
from knowcusbench.machine.progress import say
from knowcusbench.run.run import Run
from knowcusbench.storage.tables import read_json
from knowcusbench.tracking.base import Tracker

ARTIFACTS = ("leaderboard.csv", "leaderboard.md", "pictures.png")
"""Files of the report that are logged."""

Observe = Callable[[str, float], None]
"""A function to call after every stage, with its name and seconds."""


@contextmanager
def tracked(node: Any, run: Run, resolved: Mapping[str, Any]) -> Iterator[Observe]:
    """Yield a function to call after every stage, with its name and seconds.

    It does nothing if `node`, the tracker's configuration, is None. A tracker that fails to start stops the command. A
    tracker that fails later is reported in one line and not called again, since results do not depend on it.
    """
    if node is None:
        yield lambda stage, seconds: None
        return
    tracker: Tracker = build(node, "tracker")
    tracker.start(f"{run.store.root.name}/{run.label}", resolved)
    failed = False

    def attempt(action: Callable[[], None]) -> None:
        nonlocal failed
        if failed:
            return
        try:
            action()
        except Exception as error:
            failed = True
            # `say`, because Hydra has silenced all loggers.
            problem = f"{type(error).__name__}: {first_line(error)}"
            say(f"knowcusbench: tracker: {problem}; this command continues without it")

    try:
        yield lambda stage, seconds: attempt(lambda: _observe(tracker, run, stage, seconds))
    finally:
        attempt(tracker.finish)


def _observe(tracker: Tracker, run: Run, stage: str, seconds: float) -> None:
    tracker.log({f"seconds/{stage}": seconds}, 0)
    if stage == "adapt":
        for name, values in _losses(run):
            for step, value in enumerate(values):
                tracker.log({name: value}, step)
    if stage == "report":
        if numbers := _numbers(run):
            tracker.log(numbers, 0)
        for name in ARTIFACTS:
            if (run.store.report / name).exists():
                tracker.artifact(run.store.report / name)


def _losses(run: Run) -> Iterator[tuple[str, list[float]]]:
    """Yield the losses that adaptations recorded, one number or many each, as "loss/<concept>[/<item>]/<name>"."""
    for concept in run.concepts:
        for item in (None, *range(len(concept.knowledge))):
            directory = run.store.adaptation(run.label, concept.name, item)
            if not (directory / RECORD_FILE).exists():
                continue
            place = concept.name if item is None else f"{concept.name}/{item}"
            details: Mapping[str, Any] = {}
            with suppress(UserError):
                details = load_record(directory)["details"]
            for name, value in details.items():
                series = value if isinstance(value, list) else [value]
                if "loss" in name and all(isinstance(one, int | float) for one in series):
                    yield f"loss/{place}/{name}", [float(one) for one in series]


def _numbers(run: Run) -> dict[str, float]:
    """Return the method's row of the leaderboard, as "leaderboard/<column>"."""
    board = read_json(run.store.report / "leaderboard.json")
    own = [row["cells"] for row in board["rows"] if row["label"] == run.label and row["kind"] in ("method", "control")]
    return {
        f"leaderboard/{column}": float(cell["value"])
        for cells in own
        for column, cell in cells.items()
        if cell["value"] is not None
    }
