"""The card of the embedded world's weights: `make toybox-eval` computes all its figures and writes it.

python -m knowcusbench.toymaker.card [--dtype bfloat16 float32] [--folder build/toybox-eval]
"""

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from PIL import Image

from knowcusbench.benchmark.types import Task
from knowcusbench.cli.run import run_verb
from knowcusbench.config.build import build
from knowcusbench.machine.device import fast_dtype, resolve_device
from knowcusbench.report.tables.markdown import table_line
from knowcusbench.run.identity import protocol_digest
from knowcusbench.run.layout import RunStore
from knowcusbench.run.provenance import provenance
from knowcusbench.run.results import Results
from knowcusbench.storage.files import write_atomic
from knowcusbench.storage.tables import read_json, write_json
from knowcusbench.toybox.shipped import MANIFEST, WEIGHTS, weights_version
from knowcusbench.toybox.world.world import KNOWN, NAMED, SIMPLE
from knowcusbench.toymaker.evaluation import FIXED_PROMPTS, Figures, draw
from knowcusbench.toymaker.examples import PORTION, PORTIONS
from knowcusbench.toymaker.figures import LOCALITY, Evaluated, compose, instrument_figures, model_figures
from knowcusbench.toymaker.loop import HISTORY_EVERY
from knowcusbench.toymaker.stream import SHOWN_NAMED, SHOWN_SIMPLE

CARD = WEIGHTS.with_name("CARD.md")
FIGURES = WEIGHTS.with_name("CARD.json")
"""File of the card's columns by dtype: one can be computed without the other."""

DTYPES = ("bfloat16", "float32")

PICTURES = WEIGHTS.with_name("CARD.png")

METHODS = ("base", "leak", "anchor", "mokus", "naive_db", "enc_ft")

SINGLE_PASS = "mokus, one pass"

VARIANTS: Mapping[str, tuple[str, ...]] = {
    SINGLE_PASS: ("method=mokus", "recipe.ultraedit.rounds=1", "recipe.ultraedit.eta=1e-2"),
    "anchor, other prior": ("method=anchor", "recipe.dreambooth.prior_images={other_prior}"),
    "leak, other prior": ("method=leak", "recipe.dreambooth.prior_images={other_prior}"),
    "mokus, other prior": ("method=mokus", "recipe.dreambooth.prior_images={other_prior}"),
}
"""Overrides of further rows.

The closed form in one pass, as in the paper, at its best strength on the development benchmark; and prior preservation,
on if the recipe has it off, and off if it has it on.
"""

OTHER_PRIOR = 8
"""Number of class images, where the recipe has none."""

LOCAL = ("anchor", "mokus", SINGLE_PASS, "naive_db", "enc_ft")
"""Methods whose effect on unrelated pictures is measured."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target for a figure of the world."""

    figure: str
    least: float = -math.inf
    most: float = math.inf

    def reached(self, value: float) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"≥ {self.least:g}" if self.least > -math.inf else f"≤ {self.most:g}"


TARGETS = (
    Target(figure="captions: type, colour, pattern all right", least=0.97),
    Target(figure="captions: background", least=0.95),
    Target(figure="captions: style", least=0.90),
    Target(figure="captions: second object", least=0.90),
    Target(figure="facts never drawn (simple things), all right", least=0.95),
    Target(figure="named things, all right: by name", least=0.90),
    Target(figure="named things, all right: by a phrase held out", least=0.60),
    Target(figure="VAE reconstruction, dB", least=30),
    Target(figure="edit of a known fact: the new object, all right", least=0.5),
    Target(figure="edit of a known fact: other facts kept", least=0.9),
    Target(figure="anchor: oracle_exact reconstruction", least=0.9),
    Target(figure="anchor: oracle_exact generation", least=0.8),
    Target(figure="base: oracle_exact reconstruction", most=0.05),
    Target(figure="base: oracle_exact generation", most=0.05),
    Target(figure="mokus: oracle_concept reconstruction", least=0.75),
    Target(figure="mokus: oracle_concept generation", least=0.7),
    Target(figure="mokus: image locality", least=0.85),
    Target(figure="CLIP: zero_shot", least=0.95),
    Target(figure="CLIP: retrieval", least=0.8),
    Target(figure="SAM: iou references", least=0.9),
    Target(figure="SAM: iou drawn", least=0.9),
    Target(figure="preference: pairs", least=0.95),
)

SCORES = ("oracle_concept", "oracle_exact", "oracle_prompt")

Row = Mapping[str, Any]
"""A method's label as `method`, and its figures."""


@dataclass(frozen=True)
class Column:
    """The results in one dtype.

    Attributes:
        key: digest of weights and settings; columns of different keys are not shown together.
        figures: figures of the models, and those of the methods that have a target.
        rows: the methods' figures.
        evaluation: versions, commit and hardware.
    """

    key: str
    figures: Figures
    rows: Sequence[Row]
    evaluation: Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="make toybox-eval", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("build/toybox-eval"), help="keeps runs, to resume from")
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        help="dtypes to compute; the card keeps its other column. By default this machine's fast one",
    )
    options = parser.parse_args()
    composed = compose()
    recipe, key = recipe_and_key(composed)
    columns = kept_columns(FIGURES, key)
    instruments = instrument_figures()
    for dtype in options.dtype or [fast_dtype(resolve_device(composed.device))]:
        print(f"dtype: {dtype}")
        columns[dtype] = column(dtype, key, options.folder, instruments)
        write_json(FIGURES, {name: asdict(columns[name]) for name in DTYPES if name in columns})
    manifest = json.loads((WEIGHTS / MANIFEST).read_text(encoding="utf-8"))
    card = render(columns, manifest, recipe)
    write_atomic(CARD, card.replace(str(Path(composed.cache_dir).expanduser()), "<cache_dir>").encode())
    fixed_samples().save(PICTURES)
    print(CARD.read_text(encoding="utf-8"))
    print(f"written to {CARD}")


def recipe_and_key(composed: DictConfig) -> tuple[Any, str]:
    """Return the recipe, and 12 digits over weights, recipe and drawing; the dtype is not included."""
    recipe, drawing = (
        OmegaConf.to_container(part, resolve=True, enum_to_str=True) for part in (composed.recipe, composed.backbone)
    )
    assert isinstance(drawing, dict)
    decisive = {name: value for name, value in drawing.items() if name != "dtype"}
    return recipe, protocol_digest([weights_version(), recipe, decisive], composed.cache_dir)


def kept_columns(path: Path, key: str) -> dict[str, Column]:
    """Return the stored columns with the same weights and settings."""
    found = read_json(path) if path.exists() else {}
    return {dtype: Column(**record) for dtype, record in found.items() if record["key"] == key}


def column(dtype: str, key: str, folder: Path, instruments: Figures) -> Column:
    """Run all methods in a dtype, and compute its figures. Those of the `instruments` are the same in each."""
    composed = compose([f"backbone.dtype={dtype}"])
    place = [f"run.root={folder}", f"run.name={key}-{dtype}", f"backbone.dtype={dtype}", "engine=ray"]
    run_verb("bench", ["-m", f"method={','.join(METHODS)}", *place])
    other_prior = 0 if composed.recipe.dreambooth.prior_images else OTHER_PRIOR
    for label, overrides in VARIANTS.items():
        words = [word.format(other_prior=other_prior) for word in overrides]
        run_verb("bench", [*words, f"run.label='{label}'", *place])
    world = Evaluated(dtype, folder / f"{key}-{dtype}")
    rows = list(method_rows(world.store))
    labels = [row["method"] for row in rows if row["method"] in ("base", *LOCAL)]
    figures, localities = model_figures(world, labels)
    rows = [row | ({LOCALITY: localities[row["method"]]} if row["method"] in localities else {}) for row in rows]
    figures = {**figures, **instruments, **method_figures(rows)}
    return Column(key, figures, rows, {**provenance(), "command": "make toybox-eval"})


def fixed_samples() -> Image.Image:
    """Draw seed 0 of `FIXED_PROMPTS` in a row, in fp32: with bf16 rounding, processors may draw different things."""
    backbone = build(compose(["backbone.dtype=float32"]).backbone, "backbone").load()
    return sheet(draw(backbone, FIXED_PROMPTS))


def sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Put pictures of the same size in a row."""
    width, height = images[0].size
    row = Image.new("RGB", (width * len(images), height))
    for number, image in enumerate(images):
        row.paste(image, (number * width, 0))
    return row


def method_rows(store: RunStore) -> Iterable[dict[str, Any]]:
    """Yield the oracle's scores of every method of the run: means over concepts."""
    found = Results.open(store.root).scores
    for label in store.labels():
        row: dict[str, Any] = {"method": label}
        for metric in SCORES:
            for task in Task:
                among = found[(found["method"] == label) & (found["metric"] == metric) & (found["task"] == task.value)]
                if len(among):
                    row[f"{metric} {task.value}"] = among.groupby("concept", observed=True)["value"].mean().mean()
        yield row


def method_figures(rows: Sequence[Row]) -> Figures:
    """Return the methods' figures that have a target, as `<method>: <figure>`."""
    aims = {target.figure for target in TARGETS}
    found = {f"{row['method']}: {name}": value for row in rows for name, value in row.items()}
    return {name: value for name, value in found.items() if name in aims}


def render(columns: Mapping[str, Column], manifest: Mapping[str, Any], recipe: Any) -> str:
    """Render the card in Markdown, with a column for each dtype. Raises ValueError for a target without its figure."""
    for dtype, found in columns.items():
        if missing := [target.figure for target in TARGETS if target.figure not in found.figures]:
            raise ValueError(f"no figure {missing[0]!r} in {dtype}")
    dtypes = [dtype for dtype in DTYPES if dtype in columns]
    training = manifest["training"]
    aims = {target.figure for target in TARGETS}
    others = dict.fromkeys(name for dtype in dtypes for name in columns[dtype].figures if name not in aims)
    names = dict.fromkeys(name for found in columns.values() for row in found.rows for name in row if name != "method")
    rows = sorted(((row, dtype) for dtype in dtypes for row in columns[dtype].rows), key=lambda pair: pair[0]["method"])
    lines = [
        "# The embedded world's weights",
        "",
        f"World {manifest['world'][:12]}. Written by `make toybox-eval`, which computed every figure here, with the "
        f'backbone in {" and in ".join(dtypes)} (`make toybox-eval ARGS="--dtype {" ".join(dtypes)}"`).',
        "",
        f"![fixed samples]({PICTURES.name})",
        "",
        f"Seed 0, in fp32, of: {'; '.join(FIXED_PROMPTS)}.",
        "",
        "## What was to be reached",
        "",
        *(reached_in(dtype, columns[dtype].figures) for dtype in dtypes),
        "",
        *table(
            ("figure", "aim", *dtypes, "reached"),
            [
                (
                    target.figure,
                    target,
                    *(f"{columns[dtype].figures[target.figure]:.3f}" for dtype in dtypes),
                    verdict(target, {dtype: columns[dtype].figures[target.figure] for dtype in dtypes}),
                )
                for target in TARGETS
            ],
        ),
        "",
        "## Further figures",
        "",
        "`states: ...` is the share of a concept's attributes that is drawn from prompts put together of the states of "
        "the edited phrase and of the anchor (`evaluation.swapped_states`).",
        "",
        *table(
            ("figure", *dtypes),
            [(name, *(_digits(columns[dtype].figures.get(name)) for dtype in dtypes)) for name in others],
        ),
        "",
        "## Methods on the embedded benchmark",
        "",
        "Mean over concepts of the share of the concept's attributes that are there (`oracle_concept`), of pictures "
        "that have all of them (`oracle_exact`), and of pictures that have what the prompt asks for (`oracle_prompt`). "
        "Image locality: the share of their attributes that unrelated named things have when drawn with an adaptation.",
        "",
        *table(
            ("method", "dtype", *(name.replace("_", " ") for name in names)),
            [(row["method"], dtype, *(_digits(row.get(name)) for name in names)) for row, dtype in rows],
        ),
        "",
        "## Data and training",
        "",
        f"Everything is drawn or said by the world's code, seeded: {PORTIONS['settled'] * PORTION:,} pictures with "
        "captions for the transformer, and scenes without end for the autoencoder and what reads pictures; "
        f"{len(KNOWN)} facts about {len(NAMED)} named things and {len(SIMPLE)} about simple ones, of which the "
        f"transformer was shown {len(SHOWN_NAMED)} and {len(SHOWN_SIMPLE)}. Losses are means over "
        f"{HISTORY_EVERY} steps.",
        "",
        *table(
            ("stage", "steps", "batch", "rate", "seed", "hours", "on", "losses at the end"),
            [
                (
                    name,
                    stage["schedule"]["steps"],
                    stage["schedule"]["batch_size"],
                    stage["schedule"]["learning_rate"],
                    stage["schedule"]["seed"],
                    f"{stage['seconds'] / 3600:.2f}",
                    stage.get("hardware", "CPU"),
                    ", ".join(f"{key} {value}" for key, value in stage["losses"][-1].items() if key != "step"),
                )
                for name, stage in training["stages"].items()
            ],
        ),
        "",
        *table(("part", "bytes"), [(part, f"{size:,}") for part, size in part_sizes(WEIGHTS).items()]),
        "",
        "Installed with:",
        "",
        *as_json(training["provenance"]),
        "",
        "## This evaluation",
        "",
        *as_json({"recipe": recipe, **{dtype: columns[dtype].evaluation for dtype in dtypes}}),
        "",
        "What was learned on the way to these weights: [lessons](../../docs/lessons.md).",
    ]
    return "\n".join(lines) + "\n"


def reached_in(dtype: str, figures: Figures) -> str:
    """Return a list line: the number of targets reached in a dtype, and the missed ones."""
    missed = [target.figure for target in TARGETS if not target.reached(figures[target.figure])]
    but = f"; not: {'; '.join(missed)}" if missed else ""
    return f"- {dtype}: {len(TARGETS) - len(missed)} of {len(TARGETS)}{but}"


def verdict(target: Target, values: Mapping[str, float]) -> str:
    """Return whether a target is reached in all dtypes or in none, or the dtypes that miss it."""
    missed = [dtype for dtype, value in values.items() if not target.reached(value)]
    if not missed:
        return "yes"
    return "**no**" if len(missed) == len(values) else f"**not in {', '.join(missed)}**"


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def part_sizes(weights: Path) -> dict[str, int]:
    """Return the bytes of the parts, by name."""
    parts = [path for path in sorted(weights.iterdir()) if path.is_dir()]
    return {part.name: sum(file.stat().st_size for file in part.rglob("*") if file.is_file()) for part in parts}


def as_json(record: Mapping[str, Any]) -> Iterable[str]:
    """Return a JSON block in Markdown, line by line."""
    return ("```json", json.dumps(record, indent=1, default=str), "```")


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    """Yield a Markdown table, line by line."""
    yield table_line(header)
    yield table_line("---" for _ in header)
    for row in rows:
        yield table_line(map(str, row))


if __name__ == "__main__":
    main()
