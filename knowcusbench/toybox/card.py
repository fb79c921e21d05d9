"""The card of the embedded world's weights: `make toybox-eval` computes all its figures anew and writes it.

python -m knowcusbench.toybox.card [--folder build/toybox-eval]
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig
from PIL import Image

from knowcusbench.adaptation.storage import load_adaptation
from knowcusbench.benchmark.types import Task
from knowcusbench.commands import run_verb
from knowcusbench.config import build, register
from knowcusbench.files import write_atomic
from knowcusbench.provenance import provenance
from knowcusbench.store import RunStore, read_table
from knowcusbench.toybox.concepts import NOVEL_CONCEPTS
from knowcusbench.toybox.evaluation import (
    FIXED_PROMPTS,
    Figures,
    autoencoder_figures,
    caption_figures,
    draw,
    edit_figures,
    image_locality,
    knowledge_figures,
    language_figures,
)
from knowcusbench.toybox.oracle import OracleSpec
from knowcusbench.toybox.shipped import MANIFEST, WEIGHTS
from knowcusbench.toybox.training.clip import evaluate_clip
from knowcusbench.toybox.training.oracle import evaluate_oracle
from knowcusbench.toybox.training.preference import evaluate_preference
from knowcusbench.toybox.training.segmenter import evaluate_segmenter
from knowcusbench.toybox.training.stream import phrase_of

CARD = WEIGHTS.with_name("CARD.md")
PICTURES = WEIGHTS.with_name("CARD.png")
LESSONS = WEIGHTS.with_name("LESSONS.md")

METHODS = ("base", "leak", "anchor", "mokus", "naive_db", "enc_ft")

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "mokus, one pass as in the paper": ("method=mokus", "recipe.ultraedit.rounds=1"),
    "anchor, other prior": ("method=anchor", "recipe.dreambooth.prior_images={other_prior}"),
    "leak, other prior": ("method=leak", "recipe.dreambooth.prior_images={other_prior}"),
    "mokus, other prior": ("method=mokus", "recipe.dreambooth.prior_images={other_prior}"),
}
"""Further rows, by what is overridden. `other_prior` is off if the recipe has prior preservation on, and on if not."""


@dataclass(frozen=True)
class Target:
    """A figure that the world is to reach."""

    figure: str
    least: float


TARGETS = (
    Target("captions: type, colour, pattern all right", 0.97),
    Target("captions: background", 0.95),
    Target("captions: style", 0.90),
    Target("captions: second object", 0.90),
    Target("facts never drawn (simple things), all right", 0.95),
    Target("named things, all right: by name", 0.90),
    Target("named things, all right: by a phrase held out", 0.60),
    Target("VAE reconstruction, dB", 30),
    Target("edit of a known fact: the new object, all right", 0.5),
    Target("edit of a known fact: other facts kept", 0.9),
    Target("image locality, adapted", 0.85),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make toybox-eval", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("build/toybox-eval"), help="keeps runs, to go on from")
    folder = parser.parse_args().folder
    composed = compose()
    prior = composed.recipe.dreambooth.prior_images
    place = [f"run.root={folder}", "run.name=card"]
    run_verb("bench", ["-m", f"method={','.join(METHODS)}", *place])
    for label, overrides in VARIANTS.items():
        words = [word.format(other_prior=0 if prior else 8) for word in overrides]
        run_verb("bench", [*words, f"run.label='{label}'", *place])
    store = RunStore(folder / "card")
    card = render(model_figures(composed, store), list(method_rows(store)), composed)
    write_atomic(CARD, card.encode())
    sheet(draw(build(composed.backbone, "backbone").load(), FIXED_PROMPTS)).save(PICTURES)
    print(card)
    print(f"written to {CARD}")


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of a command with these overrides."""
    register()
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def model_figures(composed: DictConfig, store: RunStore) -> Figures:
    """All figures of the models themselves."""
    torch.set_num_threads(composed.cpu_threads or torch.get_num_threads())
    backbone = build(composed.backbone, "backbone").load()
    oracle = OracleSpec(source=composed.metrics.oracle_concept.oracle.source, device=composed.device).load()
    adaptations = {c.name: load_adaptation(store.adaptation("mokus", c.name, None)) for c in NOVEL_CONCEPTS}
    edited = [phrase_of(key) for concept in NOVEL_CONCEPTS for key in concept.known_as]
    return {
        **language_figures(backbone),
        **autoencoder_figures(backbone),
        **caption_figures(backbone, oracle),
        **knowledge_figures(backbone, oracle),
        **edit_figures(backbone, oracle, build(composed.editor, "editor")),
        **image_locality(backbone, oracle, adaptations, edited),
        **{f"oracle: {name}": value for name, value in evaluate_oracle(WEIGHTS / "oracle").items()},
        **{f"CLIP: {name}": value for name, value in evaluate_clip(WEIGHTS / "clip").items()},
        **{f"preference: {name}": value for name, value in evaluate_preference(WEIGHTS / "pickscore").items()},
        **{f"SAM: {name}": value for name, value in evaluate_segmenter(WEIGHTS / "sam").items()},
    }


def sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of the same size in a row."""
    width, height = images[0].size
    row = Image.new("RGB", (width * len(images), height))
    for number, image in enumerate(images):
        row.paste(image, (number * width, 0))
    return row


def method_rows(store: RunStore) -> Iterable[Mapping[str, Any]]:
    """What the oracle says of every method of the run: means over concepts."""
    samples = read_table(store.plan).set_index("id")[["task", "concept"]]
    for label in store.labels():
        row: dict[str, Any] = {"method": label}
        for metric in ("oracle_concept", "oracle_exact", "oracle_prompt"):
            scores = read_table(store.scores(label, metric)).join(samples, on="sample_id")
            for task in Task:
                among = scores[scores["task"] == task.value]
                if len(among):
                    row[f"{metric} {task.value}"] = among.groupby("concept")["value"].mean().mean()
        yield row


def render(figures: Figures, rows: Sequence[Mapping[str, Any]], composed: DictConfig) -> str:
    """The card in Markdown."""
    manifest = json.loads((WEIGHTS / MANIFEST).read_text())
    training = manifest["training"]
    least = {target.figure: target.least for target in TARGETS}
    sizes = {
        part.name: sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
        for part in sorted(WEIGHTS.iterdir())
        if part.is_dir()
    }
    here = provenance()
    columns = [f"{metric} {task.value}" for metric in ("oracle_concept", "oracle_exact") for task in Task]
    columns.append(f"oracle_prompt {Task.GENERATION.value}")
    lines = [
        "# The embedded world's weights",
        "",
        f"World {manifest['world'][:12]}. Written by `make toybox-eval`; every figure here was computed by it.",
        "",
        f"![fixed samples]({PICTURES.name})",
        "",
        f"Seed 0 of: {'; '.join(FIXED_PROMPTS)}.",
        "",
        "## What they can do",
        "",
        *table(
            ("figure", "at least", "measured"),
            [(name, least.get(name, ""), f"{value:.3f}") for name, value in figures.items()],
        ),
        "",
        "## Methods on the embedded benchmark",
        "",
        "Mean over concepts of the share of the concept's attributes that are there (`oracle_concept`), of pictures "
        "that have all of them (`oracle_exact`), and of pictures that have what the prompt asks for (`oracle_prompt`).",
        "",
        *table(
            ("method", *(name.replace("_", " ") for name in columns)),
            [(row["method"], *(f"{row[name]:.3f}" if name in row else "" for name in columns)) for row in rows],
        ),
        "",
        "## Data and training",
        "",
        f"Commit {training['provenance'].get('commit')}, {training['processor']}. Losses are means over fifty steps.",
        "",
        *table(
            ("stage", "steps", "batch", "rate", "seed", "hours", "losses at the end"),
            [
                (
                    name,
                    stage["schedule"]["steps"],
                    stage["schedule"]["batch_size"],
                    stage["schedule"]["learning_rate"],
                    stage["schedule"]["seed"],
                    f"{stage['seconds'] / 3600:.2f}",
                    ", ".join(f"{key} {value}" for key, value in stage["losses"][-1].items() if key != "step"),
                )
                for name, stage in training["stages"].items()
            ],
        ),
        "",
        *table(("part", "bytes"), [(name, f"{size:,}") for name, size in sizes.items()]),
        "",
        "## This evaluation",
        "",
        f"Recipe: `{json.dumps(dict(composed.recipe.ultraedit), default=list)}`, "
        f"`{json.dumps(dict(composed.recipe.dreambooth))}`.",
        "",
        "```json",
        json.dumps(here, indent=1),
        "```",
    ]
    if LESSONS.exists():
        lines += ["", LESSONS.read_text().strip()]
    return "\n".join(lines) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    """A Markdown table, line by line."""
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


if __name__ == "__main__":
    main()
