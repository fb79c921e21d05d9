"""The figures of the card in one dtype, computed in parallel by one process per core."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

from knowcusbench.adapters.peft_files import RECORD_FILE, load_adaptation
from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.config.build import build
from knowcusbench.config.compose import register
from knowcusbench.machine.device import resolve_device
from knowcusbench.run.layout import RunStore
from knowcusbench.toybox.models.oracle import OracleSpec
from knowcusbench.toybox.models.oracle_net import Oracle
from knowcusbench.toybox.shipped import WEIGHTS
from knowcusbench.toybox.world.concepts import NOVEL_CONCEPTS, NovelConcept
from knowcusbench.toymaker.clip import evaluate_clip
from knowcusbench.toymaker.evaluation import (
    Figures,
    autoencoder_figures,
    caption_figures,
    drawn_mask_figures,
    edit_figures,
    image_locality,
    knowledge_figures,
    language_figures,
    swapped_states,
)
from knowcusbench.toymaker.oracle import evaluate_oracle
from knowcusbench.toymaker.preference import evaluate_preference
from knowcusbench.toymaker.segmenter import evaluate_segmenter, segmenter
from knowcusbench.toymaker.stream import phrase_of

LOCALITY = "image locality"


@dataclass(frozen=True)
class Evaluated:
    """A finished run to evaluate, and the backbone in its dtype."""

    dtype: str
    run: Path

    @property
    def store(self) -> RunStore:
        return RunStore(self.run)

    @cached_property
    def composed(self) -> DictConfig:
        return compose([f"backbone.dtype={self.dtype}"])

    @cached_property
    def backbone(self) -> DiffusersBackbone:
        loaded: DiffusersBackbone = build(self.composed.backbone, "backbone").load()
        return loaded

    @cached_property
    def oracle(self) -> Oracle:
        source = self.composed.metrics.oracle_concept.oracle.source
        return OracleSpec(source=source, device=self.composed.device).load()

    def adaptations(self, label: str, concept: NovelConcept) -> list[Adaptation]:
        """Return a method's adaptations to a concept: one, or one for each knowledge item."""
        items = [None, *range(len(concept.known_as))]
        paths = [self.store.adaptation(label, concept.name, item) for item in items]
        return [load_adaptation(path) for path in paths if (path / RECORD_FILE).exists()]


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the configuration of a command with these overrides."""
    register()
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def _states(world: Evaluated) -> Figures:
    adapted = [(concept, world.adaptations("mokus", concept)[0]) for concept in NOVEL_CONCEPTS]
    return swapped_states(world.backbone, world.oracle, adapted)


def _edits(world: Evaluated) -> Figures:
    return edit_figures(world.backbone, world.oracle, build(world.composed.editor, "editor"))


MODELS: Mapping[str, Callable[[Evaluated], Figures]] = {
    "language": lambda world: language_figures(world.backbone),
    "autoencoder": lambda world: autoencoder_figures(world.backbone, world.oracle),
    "captions": lambda world: caption_figures(world.backbone, world.oracle),
    "knowledge": lambda world: knowledge_figures(world.backbone, world.oracle),
    "edits": _edits,
    "states": _states,
    "masks": lambda world: drawn_mask_figures(world.backbone, segmenter(WEIGHTS / "sam").predictor()),
}
"""Figures that depend on the dtype."""

INSTRUMENTS: Mapping[str, Callable[[], Figures]] = {
    "oracle": lambda: evaluate_oracle(WEIGHTS / "oracle"),
    "CLIP": lambda: evaluate_clip(WEIGHTS / "clip"),
    "preference": lambda: evaluate_preference(WEIGHTS / "pickscore"),
    "SAM": lambda: evaluate_segmenter(WEIGHTS / "sam"),
}
"""Figures that do not: these models read rendered pictures, in fp32."""


def locality(world: Evaluated, label: str) -> float:
    """Return the share of unrelated pictures' attributes that survive a method's adaptations.

    Of a method with one adaptation per knowledge item, the first is used. The base has no adaptation.
    """
    first = [world.adaptations(label, concept)[0] for concept in NOVEL_CONCEPTS] if label != "base" else [Adaptation()]
    edited = [phrase_of(key) for concept in NOVEL_CONCEPTS for key in concept.known_as]
    return image_locality(world.backbone, world.oracle, first, edited)


def model_figures(world: Evaluated, labels: Sequence[str]) -> tuple[Figures, dict[str, float]]:
    """Return the figures of the models, and the image locality of methods by label."""
    # The slowest parts come first.
    parts = [*((LOCALITY, label) for label in labels), *(("models", name) for name in MODELS)]
    with _processes(world.composed.device) as pool:
        found = dict(zip(parts, pool.map(partial(_part, world.dtype, world.run), parts), strict=True))
    figures = {name: value for part in MODELS for name, value in found["models", part].items()}
    return figures, {label: found[LOCALITY, label][LOCALITY] for label in labels}


def instrument_figures() -> Figures:
    """Return the figures of the models that read pictures."""
    with _processes("cpu") as pool:
        return {name: value for figures in pool.map(_instrument, INSTRUMENTS) for name, value in figures.items()}


def _processes(device: str) -> ProcessPoolExecutor:
    """Return a pool with one process per core, of one thread each; a single process for a GPU."""
    count = 1 if resolve_device(device).type == "cuda" else os.cpu_count()
    return ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (1,))


def _instrument(name: str) -> Figures:
    return {f"{name}: {key}": value for key, value in INSTRUMENTS[name]().items()}


def _part(dtype: str, run: Path, part: tuple[str, str]) -> Figures:
    kind, name = part
    world = _world(dtype, run)
    return {LOCALITY: locality(world, name)} if kind == LOCALITY else MODELS[name](world)


@lru_cache(maxsize=1)
def _world(dtype: str, run: Path) -> Evaluated:
    """Return the evaluated run, one per process, with its backbone loaded once."""
    return Evaluated(dtype, run)
