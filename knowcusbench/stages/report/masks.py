"""The masks behind the scores, for the report's pages."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from knowcusbench.encoders.segmenters.mask_store import MaskStore, mask_name
from knowcusbench.errors import ImageError, WeightsError
from knowcusbench.report.pages.types import MaskLayer, ScoredMask
from knowcusbench.run.results import Results
from knowcusbench.run.run import Run
from knowcusbench.storage.digests import content_digest


def mask_layers(
    run: Run, results: Results, labels: Sequence[str], commands: Mapping[str, Sequence[str]]
) -> tuple[MaskLayer, ...]:
    """Return the masks that scores were computed with, for every metric that segments images.

    `commands` are the commands that score each method's images.
    """
    return tuple(
        _layer(run, results, name, store, labels, commands)
        for name, metric in run.metrics.items()
        if (store := metric.masks()) is not None
    )


def _layer(
    run: Run,
    results: Results,
    name: str,
    store: MaskStore,
    labels: Sequence[str],
    commands: Mapping[str, Sequence[str]],
) -> MaskLayer:
    names: frozenset[str] = frozenset()
    with suppress(WeightsError):
        names = store.names()
    noun_of = {concept.name: concept.class_noun for concept in run.concepts}
    nouns = dict(zip(run.plan["id"].tolist(), map(noun_of.__getitem__, run.plan["concept"].tolist()), strict=True))
    scored = {label: dict(_scored(results.score_table(label, name), nouns)) for label in labels}
    lacking = [label for label, masks in scored.items() if any(mask.name not in names for mask in masks.values())]
    return MaskLayer(
        metric=name,
        title=run.metrics[name].title,
        directory=store.directory if names else None,
        names=names,
        scored=scored,
        references=dict(_references(run)),
        remedy=_remedy(run, name, store, {label: commands[label] for label in lacking if label in commands}),
    )


def _scored(table: pd.DataFrame | None, nouns: Mapping[str, str]) -> Iterator[tuple[str, ScoredMask]]:
    """Yield the mask of each scored sample. `nouns` has the class nouns by sample.

    A score's stamp is of the very image that was scored, so it identifies the mask.
    """
    if table is None:
        return
    columns = [table[column].tolist() for column in ("sample_id", "note", "details", "stamp")]
    for sample, note, details, stamp in zip(*columns, strict=True):
        if sample in nouns:
            coverage = json.loads(details).get("coverage") if details else None
            yield sample, ScoredMask(mask_name(stamp, nouns[sample]), coverage, note)


def _references(run: Run) -> Iterator[tuple[Path, str]]:
    for concept in run.concepts:
        for file in (*concept.images, *concept.held_out):
            with suppress(ImageError):
                yield file, mask_name(content_digest(file), concept.class_noun)


def _remedy(run: Run, metric: str, store: MaskStore, commands: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return commands that move the embeddings aside and then compute the scores, and with them the masks, again."""
    embeddings = shlex.quote(str(store.root.parent))
    aside = shlex.quote(f"{store.root.parent}-before")
    tables = [str(run.store.scores(label, metric)) for label in commands]
    return (
        f"mkdir -p {aside}",
        # Embeddings have hexadecimal names; existing masks stay.
        f"mv {embeddings}/[0-9a-f]* {aside}",
        shlex.join(["rm", *tables]),
        *dict.fromkeys(shlex.join(words) for words in commands.values()),
    )
