"""The card of the embedded world's weights: `make toybox-eval` computes all its figures anew and writes it.

python -m knowcusbench.toybox.card [--folder build/toybox-eval]
"""

import argparse
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from knowcusbench.adaptation.storage import RECORD_FILE, load_adaptation
from knowcusbench.adaptation.types import Adaptation
from knowcusbench.backbone.qwen_image_model import QwenImage
from knowcusbench.benchmark.types import Task
from knowcusbench.commands import run_verb
from knowcusbench.config import build, register
from knowcusbench.files import write_atomic
from knowcusbench.provenance import provenance
from knowcusbench.report.markdown import table_line
from knowcusbench.store import RunStore, read_table
from knowcusbench.toybox.concepts import NOVEL_CONCEPTS, NovelConcept
from knowcusbench.toybox.evaluation import (
    FIXED_PROMPTS,
    Figures,
    autoencoder_figures,
    caption_figures,
    draw,
    drawn_mask_figures,
    edit_figures,
    image_locality,
    knowledge_figures,
    language_figures,
    swapped_states,
)
from knowcusbench.toybox.oracle import OracleSpec
from knowcusbench.toybox.oracle_net import Oracle
from knowcusbench.toybox.shipped import MANIFEST, WEIGHTS, weights_version
from knowcusbench.toybox.training.clip import evaluate_clip
from knowcusbench.toybox.training.examples import PORTION, PORTIONS
from knowcusbench.toybox.training.loop import HISTORY_EVERY
from knowcusbench.toybox.training.oracle import evaluate_oracle
from knowcusbench.toybox.training.preference import evaluate_preference
from knowcusbench.toybox.training.segmenter import evaluate_segmenter, segmenter
from knowcusbench.toybox.training.stream import SHOWN_NAMED, SHOWN_SIMPLE, phrase_of
from knowcusbench.toybox.world import KNOWN, NAMED, SIMPLE

CARD = WEIGHTS.with_name("CARD.md")
PICTURES = WEIGHTS.with_name("CARD.png")
LESSONS = WEIGHTS.with_name("LESSONS.md")

METHODS = ("base", "leak", "anchor", "mokus", "naive_db", "enc_ft")

SINGLE_PASS = "mokus, one pass"

VARIANTS: Mapping[str, tuple[str, ...]] = {
    SINGLE_PASS: ("method=mokus", "recipe.ultraedit.rounds=1", "recipe.ultraedit.eta=1e-2"),
    "anchor, other prior": ("method=anchor", "recipe.dreambooth.prior_images={other_prior}"),
    "leak, other prior": ("method=leak", "recipe.dreambooth.prior_images={other_prior}"),
    "mokus, other prior": ("method=mokus", "recipe.dreambooth.prior_images={other_prior}"),
}
"""Further rows, by what is overridden: the closed form once, as in the paper, at its best strength on the development
benchmark; and prior preservation, on if the recipe has it off, and off if it has it on."""

OTHER_PRIOR = 8
"""Class images, where the recipe has none."""

LOCAL = ("anchor", "mokus", SINGLE_PASS, "naive_db", "enc_ft")
"""Of which it is measured what they do to unrelated pictures."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure that the world is to reach."""

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


def main() -> None:
    parser = argparse.ArgumentParser(prog="make toybox-eval", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("build/toybox-eval"), help="keeps runs, to go on from")
    folder = parser.parse_args().folder
    here = {**provenance(), "command": "make toybox-eval"}
    composed = compose()
    recipe, drawing = (
        OmegaConf.to_container(part, resolve=True, enum_to_str=True) for part in (composed.recipe, composed.backbone)
    )
    name = hashlib.sha256(json.dumps([weights_version(), recipe, drawing], default=str).encode()).hexdigest()[:12]
    place = [f"run.root={folder}", f"run.name={name}", "engine=ray"]
    run_verb("bench", ["-m", f"method={','.join(METHODS)}", *place])
    other_prior = 0 if composed.recipe.dreambooth.prior_images else OTHER_PRIOR
    for label, overrides in VARIANTS.items():
        words = [word.format(other_prior=other_prior) for word in overrides]
        run_verb("bench", [*words, f"run.label='{label}'", *place])
    store = RunStore(folder / name)
    torch.set_num_threads(composed.cpu_threads or torch.get_num_threads())
    backbone = build(composed.backbone, "backbone").load()
    oracle = OracleSpec(source=composed.metrics.oracle_concept.oracle.source, device=composed.device).load()
    rows = [with_locality(row, store, backbone, oracle) for row in method_rows(store)]
    figures = model_figures(composed, backbone, oracle, store) | method_figures(rows)
    manifest = json.loads((WEIGHTS / MANIFEST).read_text(encoding="utf-8"))
    card = render(figures, rows, manifest, {"recipe": recipe, **here})
    write_atomic(CARD, card.replace(str(Path(composed.cache_dir).expanduser()), "<cache_dir>").encode())
    fixed_samples().save(PICTURES)
    print(CARD.read_text(encoding="utf-8"))
    print(f"written to {CARD}")


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of a command with these overrides."""
    register()
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def model_figures(composed: DictConfig, backbone: QwenImage, oracle: Oracle, store: RunStore) -> Figures:
    """All figures of the models themselves."""
    adapted = [(concept, adaptations(store, "mokus", concept)[0]) for concept in NOVEL_CONCEPTS]
    return {
        **language_figures(backbone),
        **autoencoder_figures(backbone, oracle),
        **caption_figures(backbone, oracle),
        **knowledge_figures(backbone, oracle),
        **edit_figures(backbone, oracle, build(composed.editor, "editor")),
        **swapped_states(backbone, oracle, adapted),
        **{f"oracle: {name}": value for name, value in evaluate_oracle(WEIGHTS / "oracle").items()},
        **{f"CLIP: {name}": value for name, value in evaluate_clip(WEIGHTS / "clip").items()},
        **{f"preference: {name}": value for name, value in evaluate_preference(WEIGHTS / "pickscore").items()},
        **{f"SAM: {name}": value for name, value in evaluate_segmenter(WEIGHTS / "sam").items()},
        **drawn_mask_figures(backbone, segmenter(WEIGHTS / "sam").predictor()),
    }


def adaptations(store: RunStore, label: str, concept: NovelConcept) -> list[Adaptation]:
    """A method's adaptation to a concept, or all of them if it has one for each knowledge item."""
    items = [None, *range(len(concept.known_as))]
    paths = [store.adaptation(label, concept.name, item) for item in items]
    return [load_adaptation(path) for path in paths if (path / RECORD_FILE).exists()]


def fixed_samples() -> Image.Image:
    """Seed 0 of `FIXED_PROMPTS` in a row, drawn in fp32: rounded to bf16, processors may draw another thing."""
    backbone = build(compose(["backbone.dtype=float32"]).backbone, "backbone").load()
    return sheet(draw(backbone, FIXED_PROMPTS))


def sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of the same size in a row."""
    width, height = images[0].size
    row = Image.new("RGB", (width * len(images), height))
    for number, image in enumerate(images):
        row.paste(image, (number * width, 0))
    return row


def method_rows(store: RunStore) -> Iterable[Row]:
    """What the oracle says of every method of the run: means over concepts."""
    samples = read_table(store.plan).set_index("id")[["task", "concept"]]
    for label in store.labels():
        row: dict[str, Any] = {"method": label}
        for metric in SCORES:
            scores = read_table(store.scores(label, metric)).join(samples, on="sample_id")
            for task in Task:
                among = scores[scores["task"] == task.value]
                if len(among):
                    row[f"{metric} {task.value}"] = among.groupby("concept")["value"].mean().mean()
        yield row


def with_locality(row: Row, store: RunStore, backbone: QwenImage, oracle: Oracle) -> Row:
    """A method's row with what its adaptations (of one item, where each has its own) leave of unrelated pictures."""
    label = row["method"]
    if label in LOCAL:
        first = [adaptations(store, label, concept)[0] for concept in NOVEL_CONCEPTS]
    elif label == "base":
        first = [Adaptation()]
    else:
        return row
    edited = [phrase_of(key) for concept in NOVEL_CONCEPTS for key in concept.known_as]
    return {**row, "image locality": image_locality(backbone, oracle, first, edited)}


def method_figures(rows: Sequence[Row]) -> Figures:
    """The methods' figures that have a target, as `<method>: <figure>`."""
    aims = {target.figure for target in TARGETS}
    found = {f"{row['method']}: {name}": value for row in rows for name, value in row.items()}
    return {name: value for name, value in found.items() if name in aims}


def render(figures: Figures, rows: Sequence[Row], manifest: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """The card in Markdown. Raises ValueError for a target without its figure."""
    if missing := [target.figure for target in TARGETS if target.figure not in figures]:
        raise ValueError(f"no figure {missing[0]!r}")
    training = manifest["training"]
    aims = {target.figure: target for target in TARGETS}
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "method"))
    lines = [
        "# The embedded world's weights",
        "",
        f"World {manifest['world'][:12]}. Written by `make toybox-eval`, which computed every figure here.",
        "",
        f"![fixed samples]({PICTURES.name})",
        "",
        f"Seed 0, in fp32, of: {'; '.join(FIXED_PROMPTS)}.",
        "",
        "## What was to be reached",
        "",
        *table(
            ("figure", "aim", "measured", "reached"),
            [
                (name, target, f"{figures[name]:.3f}", "yes" if target.reached(figures[name]) else "**no**")
                for name, target in aims.items()
            ],
        ),
        "",
        "## Further figures",
        "",
        "`states: ...` is the share of a concept's attributes that is drawn from prompts put together of the states of "
        "the edited phrase and of the anchor (`evaluation.swapped_states`).",
        "",
        *table(("figure", "measured"), [(name, f"{value:.3f}") for name, value in figures.items() if name not in aims]),
        "",
        "## Methods on the embedded benchmark",
        "",
        "Mean over concepts of the share of the concept's attributes that are there (`oracle_concept`), of pictures "
        "that have all of them (`oracle_exact`), and of pictures that have what the prompt asks for (`oracle_prompt`). "
        "Image locality: the share of their attributes that unrelated named things have when drawn with an adaptation.",
        "",
        *table(
            ("method", *(name.replace("_", " ") for name in columns)),
            [(row["method"], *(f"{row[name]:.3f}" if name in row else "" for name in columns)) for row in rows],
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
        *as_json(evaluation),
        "",
        LESSONS.read_text(encoding="utf-8").strip(),
    ]
    return "\n".join(lines) + "\n"


def part_sizes(weights: Path) -> dict[str, int]:
    """Bytes of the parts, by name."""
    parts = [path for path in sorted(weights.iterdir()) if path.is_dir()]
    return {part.name: sum(file.stat().st_size for file in part.rglob("*") if file.is_file()) for part in parts}


def as_json(record: Mapping[str, Any]) -> Iterable[str]:
    """A JSON block in Markdown, line by line."""
    return ("```json", json.dumps(record, indent=1, default=str), "```")


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    """A Markdown table, line by line."""
    yield table_line(header)
    yield table_line("---" for _ in header)
    for row in rows:
        yield table_line(map(str, row))


if __name__ == "__main__":
    main()
