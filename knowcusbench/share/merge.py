"""Merging bundles of several groups into one leaderboard."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from knowcusbench.analysis.types import ReportInput
from knowcusbench.errors import BundleError
from knowcusbench.share.bundle import Bundle


def merged(bundles: Sequence[Bundle]) -> ReportInput:
    """Return the input of a leaderboard of all bundles. With several groups, a label becomes "<group>: <label>".

    Raises BundleError, naming two bundles and the difference, if they differ in benchmark, grid, backbone, reduction or
    the protocol of a metric, and if a group has a label twice.
    """
    first, *others = bundles
    for other in others:
        _check_together(
            first, other, {**_conditions(first), **_backbone(first)}, {**_conditions(other), **_backbone(other)}
        )
    parts = _relabelled(bundles)
    headings = {name: heading for part in reversed(parts) for name, heading in part.metrics.items()}
    order = dict.fromkeys(name for part in parts for name in part.metrics)
    ceilings = _joined([part.ceilings for part in parts])
    return ReportInput(
        run=" + ".join(dict.fromkeys(bundle.group for bundle in bundles)) if others else parts[0].run,
        methods={label: role for part in parts for label, role in part.methods.items()},
        metrics={name: headings[name] for name in order},
        concepts=first.manifest.concepts,
        scores=_joined([part.scores for part in parts]).astype({"method": "category", "metric": "category"}),
        expected=_joined([part.expected for part in parts]),
        costs=_joined([part.costs for part in parts]),
        # Every group scored the same references, so the mean is taken.
        ceilings=ceilings.groupby(["metric", "concept"], sort=False)["value"].mean().reset_index(),
        floors=_joined([part.floors for part in parts]),
        published=parts[0].published,
        reduction=first.manifest.reduction,
    )


def by_backbone(bundles: Sequence[Bundle]) -> list[tuple[str, list[Bundle]]]:
    """Return each backbone's name and bundles, in their order: rows of different backbones are never ranked together.

    A name is that of the backbone's class, and where several backbones have the same one, what is different: its
    weights' digest, or settings. Raises BundleError, naming two bundles and what differs, where they have not the same
    benchmark, grid, reduction or protocol of a metric.
    """
    first, *others = bundles
    for other in others:
        _check_together(first, other, _conditions(first), _conditions(other))
    blocks: list[list[Bundle]] = []
    for bundle in bundles:
        own = next((block for block in blocks if _backbone(block[0]) == _backbone(bundle)), None)
        if own is None:
            blocks.append([bundle])
        else:
            own.append(bundle)
    settings = [_backbone(block[0]) for block in blocks]
    return list(zip(_names(settings), blocks, strict=True))


def _names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each backbone, with all in which it differs from others of its class."""
    names = []
    for own in settings:
        kind = own.get("backbone._class_")
        alike = [other for other in settings if other.get("backbone._class_") == kind]
        differing = [key for key in own if any(other.get(key) != own[key] for other in alike)]
        told = [f"{key.removeprefix('backbone.').removeprefix('backbone ')}={str(own[key])[:12]}" for key in differing]
        name = str(kind).removesuffix("Spec")
        names.append(" ".join("".join(sign if sign.isprintable() else "?" for sign in word) for word in (name, *told)))
    return names


def _relabelled(bundles: Sequence[Bundle]) -> list[ReportInput]:
    several = len({bundle.group for bundle in bundles}) > 1
    seen: dict[str, Bundle] = {}
    parts = []
    for bundle in bundles:
        names = {label: f"{bundle.group}: {label}" if several else label for label in bundle.manifest.methods}
        for label, shown in names.items():
            if shown in seen:
                raise BundleError(
                    f"{seen[shown].path} and {bundle.path} both have {label!r} of {bundle.group!r}; "
                    "export one of them with another --group"
                )
            seen[shown] = bundle
        parts.append(_with_labels(bundle.report_input(), names))
    return parts


def _with_labels(part: ReportInput, names: Mapping[str, str]) -> ReportInput:
    def renamed(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(method=table["method"].astype(str).map(names))

    return replace(
        part,
        methods={names[label]: role for label, role in part.methods.items()},
        scores=renamed(part.scores),
        expected=renamed(part.expected),
        costs=renamed(part.costs),
    )


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    there = [table for table in tables if len(table)]
    return pd.concat(there, ignore_index=True) if there else tables[0]


def _check_together(first: Bundle, other: Bundle, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise BundleError(
                f"{first.path} and {other.path} can't share a table: {key} is {before.get(key)!r} in one and "
                f"{now.get(key)!r} in the other"
            )
    ours, theirs = first.manifest.protocols, other.manifest.protocols
    for metric in ours.keys() & theirs.keys():
        if ours[metric] != theirs[metric]:
            raise BundleError(
                f"{first.path} and {other.path} can't share a table: {metric} was computed by protocol "
                f"{ours[metric]} in one and {theirs[metric]} in the other"
            )


def _conditions(bundle: Bundle) -> dict[str, Any]:
    """Return the settings that all tables of a comparison must share."""
    manifest = bundle.manifest
    return {
        "benchmark": manifest.benchmark,
        "reduction": manifest.reduction.value,
        "concepts": manifest.concepts,
        "samples": {task.value: count for task, count in manifest.planned.items()},
        **{f"grid.{key}": value for key, value in manifest.grid.items()},
    }


def _backbone(bundle: Bundle) -> dict[str, Any]:
    """What all rows of a table have in common besides."""
    manifest = bundle.manifest
    return {
        "backbone weights": manifest.weights,
        **{f"backbone.{key}": value for key, value in manifest.backbone.items()},
    }
