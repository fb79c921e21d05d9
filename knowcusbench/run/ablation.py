"""The methods of a run that compares values of a setting."""

import re
from collections.abc import Sequence
from typing import Any

from knowcusbench.adaptation.method import Role
from knowcusbench.analysis.ablation import AblationInput, Setting
from knowcusbench.analysis.effects import EffectsInput
from knowcusbench.analysis.types import ReportInput
from knowcusbench.run.recorded import read_recorded
from knowcusbench.run.records import RunRecords
from knowcusbench.run.scores import concatenated, of_samples

SWEPT = re.compile(r"(?P<method>[^,=]+),(?P<key>[\w.]+)=(?P<value>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)")
"""The label of a method with one number set by a sweep. The number has no sign, since the axis is logarithmic."""


def ablation_input(records: RunRecords, inputs: ReportInput, measured: EffectsInput | None) -> AblationInput | None:
    """Return the results of a run that compares values of a setting; None for any other run."""
    configs = {label: read_recorded(records.store, label)[0] for label in inputs.methods}
    compared = {label: config["ablation"] for label, config in configs.items() if config.get("ablation")}
    compared = compared or swept(list(inputs.methods))
    if not compared:
        return None
    first = next(iter(compared.values()))
    return AblationInput(
        name=first["name"],
        title=first["title"],
        scale=first["scale"],
        settings=_in_order(
            [Setting(label=label, value=node["value"], taught=node["taught"]) for label, node in compared.items()],
            list(first["values"]),
        ),
        controls=[label for label, role in inputs.methods.items() if label not in compared and role is not Role.METHOD],
        metrics=inputs.metrics,
        scores=concatenated(
            of_samples(records, list(inputs.methods), records.store.scores),
            ["method", "task", "concept", "metric", "value", "knowledge"],
        ),
        effects=measured,
        costs=inputs.costs,
    )


def swept(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the values that a plain sweep over a number, `-m recipe.ultraedit.eta=1e-3,1e-2`, compares.

    They have the form of an ablation's configuration, by label. Empty if the labels show no such sweep, or several.
    """
    found = {label: match for label in labels if (match := SWEPT.fullmatch(label))}
    values = {label: float(match["value"]) for label, match in found.items()}
    sweeps = {(match["method"], match["key"]) for match in found.values()}
    if len(sweeps) != 1 or len(values) < 2 or min(values.values()) == 0:
        return {}
    ((_, key),) = sweeps
    # As in the ablation: what was not taught does not count.
    taught = {label: int(value) if key == "method.items" else None for label, value in values.items()}
    shared = {"name": key, "title": key, "scale": "log", "values": sorted(values.values())}
    return {label: shared | {"value": value, "taught": taught[label]} for label, value in values.items()}


def _in_order(settings: list[Setting], values: list[float | str]) -> list[Setting]:
    """Return settings in order: numbers by size, names as listed, then values that only a longer list of a rerun
    has."""
    numbers = sorted(value for value in {setting.value for setting in settings} if not isinstance(value, str))
    order = [*numbers, *values, *(setting.value for setting in settings)]
    return sorted(settings, key=lambda setting: order.index(setting.value))
