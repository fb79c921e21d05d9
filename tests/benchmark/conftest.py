"""A release directory small enough to break in every way."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@dataclass
class Release:
    """The content of a release with two concepts, written to `root` by `write` after a test has changed it."""

    root: Path
    dataset: Any
    knowledge: dict[str, Any] = field(default_factory=dict)

    def folder(self, concept: str) -> Path:
        return self.root / "concept_image" / concept

    def knowledge_file(self, concept: str) -> Path:
        return self.root / "knowledge_data" / f"{concept}.json"

    @property
    def dataset_file(self) -> Path:
        return self.root / "concept_image" / "dataset.json"

    def write(self) -> Path:
        """Write the JSON files and return the directory."""
        self.dataset_file.write_text(json.dumps(self.dataset))
        for concept, items in self.knowledge.items():
            self.knowledge_file(concept).write_text(json.dumps(items))
        return self.root


def knowledge_item(phrase: str, answer: str, **others: Any) -> dict[str, Any]:
    return {
        "knowledge": phrase,
        "question": f"What is {phrase}?",
        "answer": answer,
        "aspect": "origin",
        **others,
    }


def prompt(text: str, aspect: str = "background_change") -> dict[str, Any]:
    return {"text": text, "aspect": aspect}


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A valid release of a cat and a dog, four images each, not yet written."""
    root = tmp_path / "release"
    random = np.random.default_rng(0)
    for concept in ("cat", "dog"):
        (root / "concept_image" / concept).mkdir(parents=True)
        for index in range(4):
            noise = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / "concept_image" / concept / f"{index:02}.png")
    (root / "knowledge_data").mkdir()
    return Release(
        root=root,
        dataset=[
            {"concept": "dog", "class": "dog", "prompts": [prompt("{} on the beach"), prompt("{} in snow")]},
            {"concept": "cat", "class": "cat", "prompts": [prompt("{} on the beach")]},
        ],
        knowledge={
            "dog": [
                knowledge_item("my birthday gift", "sks dog", rephrase=["What did I get?"]),
                knowledge_item("the one from Rome", "sks dog"),
            ],
            "cat": [knowledge_item("my neighbour", "sks cat")],
        },
    )
