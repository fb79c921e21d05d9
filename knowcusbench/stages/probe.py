"""The transfer probe of one backbone and editor, written to a directory."""

from typing import Any

from omegaconf import DictConfig

from knowcusbench.backbone.base import BackboneSpec, resident
from knowcusbench.config.build import build
from knowcusbench.config.compose import read_config
from knowcusbench.editors.base import Editor
from knowcusbench.effects.probe import TransferProbe, run_probe
from knowcusbench.errors import ConfigError
from knowcusbench.machine.progress import Progress, say, show
from knowcusbench.report.figures.pictures import PictureRow, picture_grid
from knowcusbench.report.tables.probe import render_probe
from knowcusbench.run.dtype import settle_dtype
from knowcusbench.run.layout import RunStore
from knowcusbench.run.provenance import provenance
from knowcusbench.storage.files import atomic_path, write_atomic
from knowcusbench.storage.tables import write_json, writing


def probe(composed: DictConfig) -> None:
    """Run the probe that the recipe describes, and print its tables.

    Writes `probe.json`, `probe.md`, `before-after.png` and the single images to `probe/` in the run directory,
    replacing earlier ones. Raises ConfigError if the recipe describes no probe.
    """
    settled, why = settle_dtype(composed, measure=True)
    config, resolved = read_config(settled)
    if "probe" not in resolved["recipe"]:
        raise ConfigError("recipe.probe: missing; the probe needs a phrase, a question and its old and new answer")
    transfer: TransferProbe = build(resolved["recipe"]["probe"], "recipe.probe")
    editor: Editor = build(resolved["editor"], "editor")
    spec: BackboneSpec = build(resolved["backbone"], "backbone")
    directory = RunStore.of(config.run).probe
    backbone = resident(spec)
    with writing():
        with Progress("probe"):
            result = run_probe(transfer, editor, backbone, directory)
        rows = [
            PictureRow(f"{transfer.phrase}: {when}", [pair[place] for pair in result.files.values()])
            for place, when in enumerate((f"before ({transfer.old_answer})", f"after ({transfer.answer})"))
        ]
        with atomic_path(directory / "before-after.png") as temporary:
            picture_grid([f"seed {seed}" for seed in result.files], rows).save(temporary, format="PNG")
        text = render_probe(transfer, result)
        write_atomic(directory / "probe.md", text.encode())
        record = {
            "probe": resolved["recipe"]["probe"],
            "editor": resolved["editor"],
            "backbone": resolved["backbone"],
            "backbone_weights": backbone.digest,
            "encoder_weights": dict(transfer.encoder.weights()),
            "edit": {**result.edit.details, "seconds": result.edit.cost.total_seconds, "bytes": result.edit.nbytes},
            "text": _records(result.text),
            "pictures": _records(result.pictures),
        }
        write_json(directory / "probe.json", record | provenance())
    show(text)
    show(f"written to {directory}")
    if why:
        say(why)


def _records(table: Any) -> list[dict[str, Any]]:
    """Return rows as JSON values, with None for NaN, which JSON lacks."""
    rows: list[dict[str, Any]] = table.astype(object).where(table.notna(), None).to_dict("records")
    return rows
