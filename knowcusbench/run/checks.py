"""Checks that a command belongs to a run: same configuration, weights and library as recorded."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from knowcusbench.backbone.base import Backbone
from knowcusbench.errors import RunError
from knowcusbench.machine.progress import say
from knowcusbench.run.dtype import AUTO
from knowcusbench.run.identity import flat, incomparable, other_versions, read_identity
from knowcusbench.run.layout import RunStore
from knowcusbench.run.recorded import method_record, read_recorded, record_of, write_recorded
from knowcusbench.run.run import Run
from knowcusbench.storage.tables import create_json, read_json, write_json


def _check_identity(store: RunStore, identity: dict[str, Any], *, makes_results: bool = True) -> None:
    """Write `run.json`, or check that the existing one agrees.

    Three changes are allowed: metrics may be added, metrics of another version are computed again, and a dtype that the
    plan left open is settled.
    """
    if create_json(store.identity, identity):
        return
    record, present = read_json(store.identity), read_identity(store)
    backbone = present.get("backbone", {})
    is_open = backbone.get("dtype") == AUTO
    if is_open:
        present["backbone"] = {**backbone, "dtype": identity["backbone"].get("dtype")}
    metrics = present.get("metrics", {})
    present["metrics"] = {name: node for name, node in metrics.items() if name in identity["metrics"]}
    wanted = {**identity, "metrics": {name: node for name, node in identity["metrics"].items() if name in metrics}}
    unsaid, raised = incomparable(record, wanted), other_versions(present, wanted)
    _refuse_differences(store, present, wanted, "run.name", {*unsaid, *raised})
    if unsaid:
        say(
            f"{store.root} was begun by a version that did not record {', '.join(unsaid)}: whether it was made with "
            "other values can't be told"
        )
    if raised and makes_results:
        changed = ", ".join(sorted({key.split(".")[1] for key in raised}))
        say(
            f"{store.root} has scores of other versions of {changed}: each method's scores are computed again when it "
            "is scored"
        )
    if is_open or (raised and makes_results) or set(identity["metrics"]) - set(metrics):
        write_json(store.identity, {**identity, "metrics": {**record.get("metrics", {}), **identity["metrics"]}})


def _check_ablation(store: RunStore, ablation: Mapping[str, Any] | None) -> None:
    """Check that the run compares values of no other setting."""
    for label in store.labels() if ablation else ():
        other = read_recorded(store, label)[0].get("ablation")
        if other and ablation and other["name"] != ablation["name"]:
            raise RunError(
                f"{store.root} is the ablation {other['name']!r}; choose another run.name= for {ablation['name']!r}"
            )


def _check_label(run: Run, resolved: Mapping[str, Any]) -> None:
    """Record the method and its metrics in the run, or check that the method is the one recorded. Metrics that are new
    to it are added to the record."""
    now = record_of(run.method, resolved, run.concepts, run.metrics)
    if run.store.config(run.label).exists():
        present = method_record(run.store, run.label, run.concepts)
        _refuse_differences(run.store, {"method": present.method}, {"method": now.method}, "run.label or run.name")
        config, recorded = read_recorded(run.store, run.label)
        if recorded and set(resolved["metrics"]) - set(config["metrics"]):
            config["metrics"] = {**config["metrics"], **resolved["metrics"]}
            metrics = {**recorded.metrics, **now.metrics}
            write_recorded(run.store, run.label, config, replace(recorded, metrics=metrics))
    else:
        write_recorded(run.store, run.label, resolved, now)


def _refuse_differences(store: RunStore, present: Any, wanted: Any, remedy: str, unsaid: Collection[str] = ()) -> None:
    before, now = dict(flat(present)), dict(flat(wanted))
    differing = [key for key in sorted(before | now) if before.get(key) != now.get(key) and key not in unsaid]
    if differing:
        shown = "; ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in differing[:6])
        more = f"; and {len(differing) - 6} more" if len(differing) > 6 else ""
        raise RunError(f"{store.root} was made with another configuration ({shown}{more}); choose another {remedy}=")


def recorded_weights(store: RunStore) -> dict[str, Any]:
    """Return the recorded digest of the run's base weights and the version of torch; empty until a backbone was loaded
    for it."""
    return read_json(store.weights) if store.weights.exists() else {}


def warn_of_another_torch(store: RunStore) -> None:
    """Print one line if a run is continued under another version of torch than it was begun with."""
    before, now = recorded_weights(store).get("first_torch"), version("torch")
    if before and before != now:
        say(
            f"{store.root} was begun with torch {before}, this is {now}: low-order bits of new images may differ from "
            f"the existing ones, and new adapters by more; install torch {before} to get identical results"
        )


def check_weights(store: RunStore, backbone: Backbone) -> None:
    """Record the digest of the base weights in the run, or check it against the recorded one."""
    recorded = recorded_weights(store).get("backbone_weights")
    if recorded is None:
        write_json(store.weights, {"backbone_weights": backbone.digest, "first_torch": version("torch")})
    elif recorded != backbone.digest:
        raise RunError(
            f"{store.root} was made with other backbone weights (digest {recorded} there, {backbone.digest} now); "
            "choose another run.name="
        )
