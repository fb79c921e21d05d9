"""The digest changes with everything that can change a result, and with nothing else."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knowcusbench.benchmark import load_benchmark


def test_image_digests_are_those_of_hashlib(release: Any) -> None:
    dog = load_benchmark(release.write()).concepts[0]

    parts = [hashlib.sha256(path.read_bytes()).digest() for path in sorted(release.folder("dog").iterdir())]
    assert dog.images_digest == hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_digest_does_not_depend_on_the_place(release: Any, tmp_path: Path) -> None:
    root = release.write()
    shutil.copytree(root, tmp_path / "elsewhere" / "copy")

    assert load_benchmark(tmp_path / "elsewhere" / "copy").digest == load_benchmark(root).digest


def test_the_digest_does_not_depend_on_the_order_of_the_file_system(release: Any, tmp_path: Path) -> None:
    """A copy whose files are created in the reverse order."""
    root = release.write()
    for path in sorted(root.rglob("*.*"), reverse=True):
        target = tmp_path / "copy" / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)

    assert load_benchmark(tmp_path / "copy").digest == load_benchmark(root).digest


def test_the_digest_does_not_depend_on_the_form_of_the_json(release: Any) -> None:
    before = load_benchmark(release.write()).digest
    item = release.knowledge["cat"][0]
    release.knowledge["cat"] = {"items": [{"type": "Origin", "src": item["question"], "phrase": item["knowledge"]}]}
    root = release.write()
    entries = {entry.pop("concept"): entry for entry in release.dataset}
    release.dataset_file.write_text(json.dumps(entries, indent=7, sort_keys=False))

    assert load_benchmark(root).digest == before


def test_the_digest_does_not_depend_on_hidden_files_or_checkpoints(release: Any) -> None:
    before = load_benchmark(release.write()).digest
    (release.folder("dog") / ".DS_Store").write_bytes(b"finder")
    (release.root / "visual_ckpt" / "dog").mkdir(parents=True)
    (release.root / "visual_ckpt" / "dog" / "weights.safetensors").write_bytes(b"weights")

    assert load_benchmark(release.write()).digest == before


def change_image(release: Any) -> None:
    path = release.folder("dog") / "00.png"
    path.write_bytes(path.read_bytes() + b"\x00")


def swap_images(release: Any) -> None:
    first, second, aside = (release.folder("dog") / name for name in ("00.png", "01.png", "aside"))
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def rename_concept(release: Any) -> None:
    release.folder("cat").rename(release.folder("tom"))
    release.dataset[1]["concept"] = "tom"
    release.knowledge["tom"] = release.knowledge.pop("cat")
    release.knowledge_file("cat").unlink()


CHANGES: dict[str, Callable[[Any], Any]] = {
    "an image": change_image,
    "the order of images": swap_images,
    "one image less": lambda release: (release.folder("dog") / "03.png").unlink(),
    "the name": rename_concept,
    "the class noun": lambda release: release.dataset[0].update({"class": "puppy"}),
    "a phrase": lambda release: release.knowledge["dog"][0].update(knowledge="my present"),
    "a question": lambda release: release.knowledge["dog"][0].update(question="What is the gift?"),
    "an answer": lambda release: release.knowledge["dog"][0].update(answer="sks puppy"),
    "a rephrasing": lambda release: release.knowledge["dog"][0].update(rephrase="What?"),
    "the aspect of knowledge": lambda release: release.knowledge["dog"][0].update(aspect="value"),
    "the order of knowledge": lambda release: release.knowledge["dog"].reverse(),
    "a prompt": lambda release: release.dataset[0]["prompts"][0].update(text="{} on a beach"),
    "the aspect of a prompt": lambda release: release.dataset[0]["prompts"][0].update(aspect="style_transfer"),
    "the order of prompts": lambda release: release.dataset[0]["prompts"].reverse(),
    "the order of concepts": lambda release: release.dataset.reverse(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_digest_changes_with(release: Any, change: Callable[[Any], Any]) -> None:
    before = load_benchmark(release.write()).digest

    change(release)

    assert load_benchmark(release.write()).digest != before
