"""The first stage: read the benchmark, make the plan, and open the run directory for it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.editors.base import Fact
from knowcusbench.adaptation.method import Method
from knowcusbench.backbone.base import Backbone, BackboneSpec
from knowcusbench.benchmark.release import load_benchmark
from knowcusbench.benchmark.source import resolve_source
from knowcusbench.benchmark.types import Benchmark, Concept, Task
from knowcusbench.config.schema import SECTIONS, Config, ReportConfig, build, did_you_mean
from knowcusbench.effects.spec import EffectsSpec
from knowcusbench.effects.text import Probe
from knowcusbench.engine.base import Engine
from knowcusbench.errors import ConfigError, RunError
from knowcusbench.metrics.base import Metric
from knowcusbench.metrics.memory import scoring_bytes
from knowcusbench.metrics.protocol import Reduction
from knowcusbench.storage.names import check_name, matching
from knowcusbench.run.plan import check_seeds, counts, make_plan, select_concepts
from knowcusbench.machine.progress import say
from knowcusbench.analysis.selection import Choice, column_keys
from knowcusbench.analysis.columns import COSTS
from knowcusbench.run.dtype import AUTO
from knowcusbench.run.encoders import with_recorded_commits
from knowcusbench.run.identity import (
    addressed_digests,
    flat,
    identity_of,
    incomparable,
    other_versions,
    protocol_digest,
    read_identity,
)
from knowcusbench.config.local_paths import with_absolute_paths
from knowcusbench.run.recorded import MethodRecord, method_record, read_recorded, record_of, write_recorded
from knowcusbench.run.released import claim_released
from knowcusbench.run.layout import RunStore, create_json, read_json, read_table, write_json, write_table, writing

WORKSPACE = 2**30
"""Bytes of a GPU that kernels need beside weights and activations."""


@dataclass(frozen=True, kw_only=True)
class PaperSpec:
    """What of the results goes into a paper: the table's rows and columns, the pictures' concepts (None for the first
    ones), and the cost that quality is compared with."""

    table: Choice
    concepts: tuple[str, ...] | None
    cost: str


@dataclass(frozen=True)
class Run:
    """One method's part of a run: what to make, with what, and where it goes.

    `protocols` has, for every metric, a digest of all that decides its numbers, the `reduction` included; `renamed` has
    them by what an earlier version wrote. `truth` names the metrics that the others are judged by.
    """

    store: RunStore
    label: str
    benchmark: Benchmark
    concepts: tuple[Concept, ...]
    plan: pd.DataFrame
    backbone: BackboneSpec
    method: Method
    metrics: dict[str, Metric]
    protocols: dict[str, str]
    reduction: Reduction
    truth: tuple[str, ...]
    paper: PaperSpec
    effects: EffectsSpec
    engine: Engine
    cache: AdapterCache
    renamed: Mapping[str, str] = field(default_factory=dict)

    def table(self, path: Path) -> pd.DataFrame:
        """A table of the run, with the digests of protocols as they are today."""
        found = read_table(path)
        if self.renamed and "protocol" in found:
            return found.assign(protocol=found["protocol"].map(lambda digest: self.renamed.get(digest, digest)))
        return found

    @cached_property
    def methods(self) -> Mapping[str, MethodRecord]:
        """What is recorded of all methods of the run directory, by label, in the order of tables."""
        found = {label: method_record(self.store, label, self.concepts) for label in self.store.labels()}
        return dict(sorted(found.items(), key=lambda entry: entry[1].role.place))

    @cached_property
    def gallery(self) -> Mapping[str, tuple[Path, ...]]:
        """The reference images of all concepts by name."""
        return {concept.name: concept.images for concept in self.concepts}

    def concept(self, name: str) -> Concept:
        return next(concept for concept in self.concepts if concept.name == name)


def read_config(composed: DictConfig) -> tuple[Config, dict[str, Any]]:
    """The typed configuration, in which paths of this machine are absolute, and the same as plain data with all
    interpolations resolved and paths as they were typed."""
    try:
        resolved = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True, enum_to_str=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value; give it one: {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        # OmegaConf puts the name of the original error in front of its message.
        text = str(error).partition("\n")[0]
        raise ConfigError(
            f"{error.full_key}: {text.rpartition('raised while resolving interpolation: ')[2]}"
        ) from error
    assert isinstance(resolved, dict)
    plain = {str(key): value for key, value in resolved.items()}
    _refuse_added_keys(plain)
    _refuse_encoders_without_source(plain)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    return with_absolute_paths(config), plain


def _refuse_added_keys(resolved: Mapping[str, Any]) -> None:
    """Hydra lets `+key=value` add to a typed section what its schema does not have; nothing would read it."""
    for prefix, schema, section in [
        ("", Config, resolved),
        *((f"{name}.", schema, resolved[name]) for name, schema in SECTIONS.items() if resolved[name]),
    ]:
        known = [entry.name for entry in fields(schema)]
        for key in section:
            if key not in known:
                raise ConfigError(f"{prefix}{key}: unknown key{did_you_mean(str(key), known)}")


def _refuse_encoders_without_source(resolved: Mapping[str, Any]) -> None:
    """`source: null` is an encoder of which this choice has no checkpoint: only a metric that uses it needs one."""
    metrics = [metric for metric in resolved["metrics"].values() if isinstance(metric, Mapping)]
    for name, encoder in resolved["encoders"].items():
        used = any(encoder in metric.values() for metric in metrics)
        if used and isinstance(encoder, Mapping) and encoder.get("source", "") is None:
            raise ConfigError(
                f"encoders.{name}.source has no value, and a metric needs it; give it a directory or hub id: "
                f"encoders.{name}.source=..."
            )


def prepare(config: Config, resolved: Mapping[str, Any], *, makes_results: bool) -> Run:
    """Open the run directory for the method in the configuration, and write the plan there.

    `makes_results` says whether the method is to become part of the run. Raises RunError, naming the keys that differ,
    if the directory was made with another configuration.
    """
    run = planned(config, resolved, makes_results=makes_results)
    for metric in run.metrics.values():
        metric.check(run.concepts)
    _check_paper(run)
    identity = identity_of(run.benchmark, resolved)
    with writing():
        _claim(run.store, identity, makes_results=makes_results)
        if makes_results:
            _claim_ablation(run.store, resolved["ablation"])
            _claim_label(run, resolved)
            claim_released(run.store, run.label, run.concepts, resolved["method"])
            run.store.remove_dead_claims(run.label)
            warn_of_another_torch(run.store)
        if not run.store.plan.exists():
            write_table(run.store.plan, run.plan)
    return with_recorded_commits(run)


def planned(config: Config, resolved: Mapping[str, Any], *, makes_results: bool) -> Run:
    """What `prepare` opens; nothing is written."""
    root = resolve_source(config.benchmark.path, config.benchmark.repo, config.benchmark.revision)
    benchmark = load_benchmark(root)
    if config.run.label:
        check_name(config.run.label, "run.label")
    for name in config.metrics:
        check_name(name, f"metrics.{name}")
    concepts = select_concepts(benchmark, config.grid)
    return Run(
        store=RunStore.of(config.run),
        label=config.run.label or "",
        benchmark=benchmark,
        concepts=concepts,
        plan=make_plan(concepts, config.grid),
        backbone=build(config.backbone, "backbone"),
        method=build(config.method, "method").for_benchmark(benchmark.concepts),
        metrics={name: build(node, f"metrics.{name}") for name, node in config.metrics.items()},
        protocols={name: protocol_digest(node, config.cache_dir) for name, node in _protocol_nodes(resolved).items()},
        reduction=config.protocol.reduction,
        truth=tuple(config.report.truth),
        paper=paper_spec(config.report, partial=makes_results),
        effects=effects_spec(config, resolved),
        engine=build(config.engine, "engine"),
        cache=AdapterCache(Path(config.cache_dir).expanduser() / "adapters"),
        renamed=_renamed(RunStore.of(config.run)),
    )


def _protocol_nodes(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the numbers of each metric."""
    return {name: [node, resolved["protocol"]["reduction"]] for name, node in resolved["metrics"].items()}


def _effects_node(resolved: Mapping[str, Any]) -> Any:
    """Return what decides the numbers of effects: not whether they are measured, but how."""
    effects = {key: value for key, value in resolved["effects"].items() if key not in ("enabled", "interference")}
    return {"locality": resolved["locality"], "effects": effects, "probes": list(Probe)}


def _renamed(store: RunStore) -> dict[str, str]:
    """Return today's digests of the protocols by those that methods of an earlier version recorded."""
    found: dict[str, str] = {}
    for label in store.labels():
        config, record = read_recorded(store, label)
        if record is None and "protocol" in config:
            nodes = [*_protocol_nodes(config).values(), _effects_node(config)]
            found |= addressed_digests(nodes, config["cache_dir"])
    return found


def paper_choice(report: ReportConfig, *, partial: bool) -> Choice:
    """`partial` says whether rows may be asked for that are not there yet."""
    return Choice(
        columns=None if report.columns is None else tuple(report.columns),
        rows=None if report.rows is None else tuple(report.rows),
        precision=report.precision,
        percent=report.percent,
        partial=partial,
    )


def paper_spec(report: ReportConfig, *, partial: bool) -> PaperSpec:
    """As `paper_choice`, with the figures."""
    return PaperSpec(
        table=paper_choice(report, partial=partial),
        concepts=None if report.concepts is None else tuple(report.concepts),
        cost=report.cost.value,
    )


def _check_paper(run: Run) -> None:
    """A wrong name is found before hours of work, not after them."""
    planned = [task for task, count in counts(run.plan).items() if count]
    scored = [(f"{task}_{name}", name) for task in planned for name, m in run.metrics.items() if Task(task) in m.tasks]
    column_keys([*scored, *((cost.column.key, cost.column.key) for cost in COSTS)], run.paper.table.columns or ())
    matching(run.paper.concepts or (), [concept.name for concept in run.concepts], "report.concepts")


def effects_spec(config: Config, resolved: Mapping[str, Any]) -> EffectsSpec:
    """What is measured beside the samples. Raises ConfigError for repeated seeds or prompts."""
    for key, values in (("effects.seeds", config.effects.seeds), ("locality.prompts", config.locality.prompts)):
        if len(set(values)) != len(values):
            raise ConfigError(f"{key}: expected different ones, found {list(values)}")
    check_seeds(config.effects.seeds, "effects.seeds")
    return EffectsSpec(
        enabled=config.effects.enabled,
        questions=tuple(Fact(entry.question, entry.answer) for entry in config.locality.questions),
        prompts=tuple(config.locality.prompts),
        seeds=tuple(config.effects.seeds),
        question_form=config.effects.question_form.value,
        interference=config.effects.interference,
        encoder=build(config.effects.encoder, "effects.encoder"),
        protocol=protocol_digest(_effects_node(resolved), config.cache_dir),
    )


def _claim(store: RunStore, identity: dict[str, Any], *, makes_results: bool = True) -> None:
    """Write `run.json`, or check that the one there says the same. Metrics may be added to a run, those of another
    version are computed again, and a dtype that its plan left open is settled."""
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
        say(f"{store.root} has scores of other versions of {changed}: each method's are computed again as it is scored")
    if is_open or (raised and makes_results) or set(identity["metrics"]) - set(metrics):
        write_json(store.identity, {**identity, "metrics": {**record.get("metrics", {}), **identity["metrics"]}})


def _claim_ablation(store: RunStore, ablation: Mapping[str, Any] | None) -> None:
    """Check that the run compares values of no other setting."""
    for label in store.labels() if ablation else ():
        other = read_recorded(store, label)[0].get("ablation")
        if other and ablation and other["name"] != ablation["name"]:
            raise RunError(
                f"{store.root} is the ablation {other['name']!r}; choose another run.name= for {ablation['name']!r}"
            )


def _claim_label(run: Run, resolved: Mapping[str, Any]) -> None:
    now = record_of(run.method, resolved, run.concepts)
    if run.store.config(run.label).exists():
        present = method_record(run.store, run.label, run.concepts)
        _refuse_differences(run.store, {"method": present.method}, {"method": now.method}, "run.label or run.name")
    else:
        write_recorded(run.store, run.label, resolved, now)


def _refuse_differences(store: RunStore, present: Any, wanted: Any, remedy: str, unsaid: Collection[str] = ()) -> None:
    before, now = dict(flat(present)), dict(flat(wanted))
    differing = [key for key in sorted(before | now) if before.get(key) != now.get(key) and key not in unsaid]
    if differing:
        shown = "; ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in differing[:6])
        more = f"; and {len(differing) - 6} more" if len(differing) > 6 else ""
        raise RunError(f"{store.root} was made with another configuration ({shown}{more}); choose another {remedy}=")


@lru_cache(maxsize=1)
def resident(spec: BackboneSpec) -> Backbone:
    """The backbone of this process: loaded once, whatever the number of concepts, methods and stages."""
    return spec.load()


def make_room(metrics: Iterable[Metric]) -> None:
    """Let go of this process's backbone if it leaves too little of its GPU for the encoders of these metrics. It is
    loaded again when it is needed."""
    if not resident.cache_info().currsize:
        return
    import torch

    from knowcusbench.machine.out_of_memory import free_memory

    if torch.cuda.is_available():
        free_memory()
        if torch.cuda.mem_get_info()[0] < scoring_bytes(metrics) + WORKSPACE:
            resident.cache_clear()
            free_memory()


def recorded_weights(store: RunStore) -> dict[str, Any]:
    """The digest of the base weights that the run was made with, and the version of torch, once a backbone was loaded
    for it."""
    return read_json(store.weights) if store.weights.exists() else {}


def warn_of_another_torch(store: RunStore) -> None:
    """Print one line where a run goes on under another version of torch than it was begun with."""
    before, now = recorded_weights(store).get("first_torch"), version("torch")
    if before and before != now:
        say(
            f"{store.root} was begun with torch {before}, this is {now}: the last bits of new images may differ from "
            f"those there, and training more; install torch {before} to go on alike"
        )


def claim_weights(store: RunStore, backbone: Backbone) -> None:
    """Record the digest of the base weights in the run, or check that they are those recorded."""
    recorded = recorded_weights(store).get("backbone_weights")
    if recorded is None:
        write_json(store.weights, {"backbone_weights": backbone.digest, "first_torch": version("torch")})
    elif recorded != backbone.digest:
        raise RunError(
            f"{store.root} was made with other backbone weights (digest {recorded} there, {backbone.digest} now); "
            "choose another run.name="
        )
