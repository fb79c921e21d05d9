"""The first stage: read the benchmark, make the plan, and open the run directory for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.analysis.columns import COSTS
from knowcusbench.analysis.selection import Choice, column_keys
from knowcusbench.benchmark.release import load_benchmark
from knowcusbench.benchmark.source import resolve_source
from knowcusbench.benchmark.types import Fact, Task
from knowcusbench.config.build import build
from knowcusbench.config.schema import Config, ReportConfig
from knowcusbench.effects.spec import EffectsSpec
from knowcusbench.errors import ConfigError
from knowcusbench.run.checks import _check_ablation, _check_identity, _check_label, warn_of_another_torch
from knowcusbench.run.encoders import with_recorded_commits
from knowcusbench.run.identity import identity_of, protocol_digest
from knowcusbench.run.layout import RunStore
from knowcusbench.run.plan import check_seeds, counts, make_plan, select_concepts
from knowcusbench.run.recorded import effects_node, protocol_nodes, renamed_protocols
from knowcusbench.run.released import check_released
from knowcusbench.run.run import PaperSpec, Run
from knowcusbench.storage.names import check_name, matching
from knowcusbench.storage.tables import write_table, writing


def prepare(config: Config, resolved: Mapping[str, Any], *, makes_results: bool) -> Run:
    """Open the run directory for the method in the configuration, and write the plan there.

    `makes_results` says whether the method becomes part of the run. Raises RunError, naming the keys that differ, if
    the directory was made with another configuration.
    """
    run = planned(config, resolved, makes_results=makes_results)
    for metric in run.metrics.values():
        metric.check(run.concepts)
    _check_paper(run)
    identity = identity_of(run.benchmark, resolved)
    with writing():
        _check_identity(run.store, identity, makes_results=makes_results)
        if makes_results:
            _check_ablation(run.store, resolved["ablation"])
            _check_label(run, resolved)
            check_released(run.store, run.label, run.concepts, resolved["method"])
            run.store.remove_dead_claims(run.label)
            warn_of_another_torch(run.store)
        if not run.store.plan.exists():
            write_table(run.store.plan, run.plan)
    return with_recorded_commits(run)


def planned(config: Config, resolved: Mapping[str, Any], *, makes_results: bool) -> Run:
    """Return the run that `prepare` opens, without writing anything."""
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
        protocols={name: protocol_digest(node, config.cache_dir) for name, node in protocol_nodes(resolved).items()},
        reduction=config.protocol.reduction,
        truth=tuple(config.report.truth),
        paper=paper_spec(config.report, partial=makes_results),
        effects=effects_spec(config, resolved),
        engine=build(config.engine, "engine"),
        cache=AdapterCache(Path(config.cache_dir).expanduser() / "adapters"),
        renamed=renamed_protocols(RunStore.of(config.run)),
    )


def paper_choice(report: ReportConfig, *, partial: bool) -> Choice:
    """Return the choice of rows and columns for the paper's table.

    `partial` says whether the choice may name rows that do not exist yet.
    """
    return Choice(
        columns=None if report.columns is None else tuple(report.columns),
        rows=None if report.rows is None else tuple(report.rows),
        precision=report.precision,
        percent=report.percent,
        partial=partial,
    )


def paper_spec(report: ReportConfig, *, partial: bool) -> PaperSpec:
    """Return `paper_choice` together with the settings of the figures."""
    return PaperSpec(
        table=paper_choice(report, partial=partial),
        concepts=None if report.concepts is None else tuple(report.concepts),
        cost=report.cost.value,
    )


def _check_paper(run: Run) -> None:
    """Raise ConfigError for an unknown column or concept of the paper, before hours of work rather than after them."""
    planned = [task for task, count in counts(run.plan).items() if count]
    scored = [(f"{task}_{name}", name) for task in planned for name, m in run.metrics.items() if Task(task) in m.tasks]
    column_keys([*scored, *((cost.column.key, cost.column.key) for cost in COSTS)], run.paper.table.columns or ())
    matching(run.paper.concepts or (), [concept.name for concept in run.concepts], "report.concepts")


def effects_spec(config: Config, resolved: Mapping[str, Any]) -> EffectsSpec:
    """Return the specification of side-effect measurements. Raises ConfigError for repeated seeds or prompts."""
    for key, values in (("effects.seeds", config.effects.seeds), ("locality.prompts", config.locality.prompts)):
        if len(set(values)) != len(values):
            raise ConfigError(f"{key}: expected different ones, found {list(values)}")
    check_seeds(config.effects.seeds, "effects.seeds")
    return EffectsSpec(
        enabled=config.effects.enabled,
        questions=tuple(Fact(entry.question, entry.answer) for entry in config.locality.questions),
        prompts=tuple(config.locality.prompts),
        seeds=tuple(config.effects.seeds),
        question_form=config.effects.question_form,
        interference=config.effects.interference,
        encoder=build(config.effects.encoder, "effects.encoder"),
        protocol=protocol_digest(effects_node(resolved), config.cache_dir),
    )
