"""The verbs `knowcusbench export` and `knowcusbench leaderboard`."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.selection import chosen
from knowcusbench.cli.options import Parser
from knowcusbench.config.compose import compose_config, read_config
from knowcusbench.errors import ConfigError
from knowcusbench.report import render_console, write_by_backbone, write_report
from knowcusbench.run.prepare import paper_choice, prepare
from knowcusbench.run.recorded import recorded_config
from knowcusbench.run.results import Results
from knowcusbench.run.run import Run
from knowcusbench.share.bundle import read_bundle
from knowcusbench.share.hub import push, scores_dataset
from knowcusbench.share.manifest import is_group
from knowcusbench.share.merge import by_backbone, merged
from knowcusbench.share.pack import pack, write_bundle
from knowcusbench.storage.files import local_path
from knowcusbench.storage.tables import writing


def export(arguments: Sequence[str]) -> None:
    """Run `knowcusbench export [OUTPUT.zip] [options] run.name=NAME`: pack a run into a bundle."""
    parser = Parser("export")
    parser.add_argument("output", type=local_path, nargs="?")
    parser.add_argument("--group", default="")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--dataset", type=local_path)
    parser.add_argument("--push")
    parser.add_argument("--public", action="store_true")
    options, overrides = parser.parsed(arguments)
    run = recorded_run(overrides)
    output = options.output or Path(f"{run.store.root.name}.zip")
    if output.suffix != ".zip":
        raise ConfigError(f"{output}: expected a file name that ends in .zip")
    if not is_group(options.group):
        raise ConfigError(
            f"--group: {options.group!r} can't be a group's name; it has / or characters that can't be printed"
        )
    if options.dataset and options.dataset.exists():
        raise ConfigError(f"--dataset: {options.dataset} exists already; name a new directory")
    parts = pack(run, options.group, options.images)
    results = Results.of(run).report_input
    for label, count in results.gone.items():
        print(f"knowcusbench: {label}: {count:,} images are not in {run.store.root}", file=sys.stderr)
    for label, count in results.altered.items():
        print(f"knowcusbench: {label}: {count:,} images are not those that were scored", file=sys.stderr)
    with writing():
        write_bundle(output, parts)
        print(f"wrote {output}: {len(parts)} parts, {output.stat().st_size:,} bytes")
        bundle = read_bundle(output)
        if options.dataset:
            scores_dataset(bundle.scores).save_to_disk(options.dataset)
            print(f"wrote {options.dataset}: {len(bundle.scores):,} scores")
    if options.push:
        folder = "/".join(part for part in (options.group, bundle.manifest.run) if part)
        print(f"pushed to {push(parts, options.push, folder, private=not options.public)}")


def recorded_run(overrides: Sequence[str]) -> Run:
    """Return the run in a directory, opened only to read."""
    config, resolved = read_config(recorded_config(compose_config(overrides), overrides))
    return prepare(config, resolved, makes_results=False)


def leaderboard(arguments: Sequence[str]) -> None:
    """Run `knowcusbench leaderboard BUNDLE... [--output DIR] [report.columns=...]`.

    Checks bundles and shows them in one table for each backbone.
    """
    parser = Parser("leaderboard")
    parser.add_argument("bundles", type=local_path, nargs="+")
    parser.add_argument("--output", type=local_path)
    options, overrides = parser.parsed(arguments)
    for word in overrides:
        if not word.startswith("report."):
            raise ConfigError(f"{word}: bundles bring their own configuration; only report.* can be chosen")
    choice = paper_choice(compose_config(overrides).report, partial=False)
    bundles = [read_bundle(path) for path in options.bundles]
    blocks = by_backbone(bundles)
    tables = [(name, chosen(build_leaderboard(merged(together)), choice, rounded=False)) for name, together in blocks]
    if len(tables) > 1:
        tables = [(name, replace(table, title=f"Leaderboard on {name}")) for name, table in tables]
    if options.output:
        with writing():
            if len(tables) > 1:
                write_by_backbone(options.output, tables)
            else:
                write_report(options.output, tables[0][1])
    heads = [f"{table.title}:\n" if len(tables) > 1 else "" for _, table in tables]
    print("\n\n".join(head + render_console(table) for head, (_, table) in zip(heads, tables, strict=True)))
    if options.output:
        print(f"\nwritten to {options.output}")
