"""The numbers of every metric, encoder and segmenter at its version; other numbers need a raised version.

Weights come from numpy's frozen generator and images from integers, so the numbers are the same on any machine, but for
rounding.
"""

import inspect
import json
import re
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segment_anything
import torch
from encoders.segmenters.test_base import RENAMED, authors_sam
from PIL import Image
from safetensors.torch import load_file, save_file

from knowcusbench.config.addresses import shipped_targets
from knowcusbench.config.build import import_target
from knowcusbench.encoders.base import EncoderSpec, ImageTextEncoder
from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.encoders.dino import DinoSpec
from knowcusbench.encoders.hps import HpsSpec
from knowcusbench.encoders.segmenters.base import BoxSpec, SegmenterSpec
from knowcusbench.encoders.segmenters.boxes import GroundingDinoBoxes, WholeImageBoxes
from knowcusbench.encoders.segmenters.sam import SamSpec, SegmentAnythingSpec
from knowcusbench.encoders.siglip import SiglipSpec
from knowcusbench.metrics.base import Metric, ScoreItem
from knowcusbench.storage.images import read_image
from knowcusbench.storage.versions import version_of
from knowcusbench.toybox.models.oracle import OracleSpec
from knowcusbench.toybox.shipped import WEIGHTS
from knowcusbench.toybox.world.benchmark import references
from knowcusbench.toybox.world.concepts import NOVEL_CONCEPTS
from knowcusbench.toybox.world.render import render

GOLDEN: Mapping[str, Mapping[str, list[Any]]] = json.loads(Path(__file__).with_name("golden.json").read_text())
"""Numbers (or words) by class and version. A version's numbers never change; a raised version adds its own."""

KINDS = (Metric, EncoderSpec, SegmenterSpec, BoxSpec, OracleSpec)

CLASSES = {
    name: cls
    for name, target in sorted(shipped_targets().items())
    if issubclass(cls := import_target(target, name), KINDS) and not inspect.isabstract(cls)
}
"""All that configuration files name."""

TOLERANCE = 2e-3
"""Tolerance for numbers around 1: larger than rounding, smaller than one pixel painted differently."""


@pytest.fixture(scope="module")
def checkpoints(encoders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature checkpoints with weights independent of any library's initialisation, also SAM in its authors'
    format."""
    root = tmp_path_factory.mktemp("golden") / "checkpoints"
    shutil.copytree(encoders, root)
    for file in root.rglob("*.safetensors"):
        save_file(frozen(load_file(file)), file, metadata={"format": "pt"})
    for file in root.rglob("*.pt"):
        torch.save({"state_dict": frozen(torch.load(file)["state_dict"])}, file)
    torch.save(as_authors(load_file(root / "sam" / "model.safetensors")), root / "sam.pth")
    return root


def frozen(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return other weights of the same shapes, determined by their names; scalars stay the same."""
    return {
        name: torch.from_numpy(draws(name, tensor.shape)).to(tensor.dtype)
        if tensor.is_floating_point() and tensor.dim()
        else tensor
        for name, tensor in weights.items()
    }


def draws(name: str, shape: Sequence[int]) -> np.ndarray:
    generator = np.random.RandomState(zlib.crc32(re.sub(r"^module\.", "", name).encode()))
    # Gains around 1, so that no layer is silent.
    gain = len(shape) == 1 and name.endswith("weight")
    return gain + 0.15 * generator.standard_normal(tuple(shape)).astype(np.float32)


def as_authors(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in weights.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    matrix = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    renamed.setdefault(matrix, renamed.pop("shared_image_embedding.positional_embedding", None))
    return renamed


@pytest.fixture(scope="module")
def specs(checkpoints: Path, request: pytest.FixtureRequest) -> Mapping[type, Callable[[], Any]]:
    """How each encoder, segmenter and box finder is built here."""
    boxes, cpu = WholeImageBoxes(), {"device": "cpu"}
    hps = checkpoints / "hps"
    return {
        ClipSpec: lambda: ClipSpec(source=str(checkpoints / "clip"), **cpu),
        TransformersClipSpec: lambda: TransformersClipSpec(source=str(checkpoints / "pickscore"), **cpu),
        DinoSpec: lambda: DinoSpec(source=str(checkpoints / "dino"), **cpu),
        HpsSpec: lambda: HpsSpec(source=str(hps), file="HPS_v2_compressed.pt", architecture=f"local-dir:{hps}", **cpu),
        SiglipSpec: lambda: SiglipSpec(source=str(checkpoints / "siglip"), **cpu),
        SamSpec: lambda: SamSpec(source=str(checkpoints / "sam"), boxes=boxes, **cpu),
        SegmentAnythingSpec: lambda: SegmentAnythingSpec(
            architecture="miniature", checkpoint=str(checkpoints / "sam.pth"), boxes=boxes, **cpu
        ),
        WholeImageBoxes: lambda: boxes,
        GroundingDinoBoxes: lambda: GroundingDinoBoxes(source=str(grounding_dino(checkpoints)), threshold=0.0, **cpu),
        OracleSpec: lambda: OracleSpec(source=str(WEIGHTS / "oracle"), **cpu),
    }


def grounding_dino(root: Path) -> Path:
    from encoders.segmenters.test_boxes import build_grounding_dino

    directory = root / "grounding_dino"
    if not directory.exists():
        build_grounding_dino(directory)
        for file in directory.rglob("*.safetensors"):
            save_file(frozen(load_file(file)), file, metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two images of each of two things of the embedded world, each on another background."""
    folder = tmp_path_factory.mktemp("pictures")
    scenes = [scene for concept in NOVEL_CONCEPTS[:2] for scene in references(concept)[:2]]
    for number, scene in enumerate(scenes):
        # Not square, so that it matters how an image is resized and cropped.
        render(scene).crop((0, 6, 64, 60)).resize((128, 108), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(4)]


def items(pictures: Sequence[Path]) -> list[ScoreItem]:
    """Return an image of the thing and one of another thing in its place: with a prompt, and alone."""
    thing = NOVEL_CONCEPTS[0]
    own, other = tuple(pictures[:2]), tuple(pictures[2:])
    known = {
        "references": own,
        "class_noun": thing.thing.kind,
        "concept": thing.name,
        "phrase": "Anna's gift",
        "gallery": {thing.name: own, NOVEL_CONCEPTS[1].name: other},
    }
    prompts = (thing.prompts[0], "{}")
    return [
        ScoreItem(sample_id=str(number), image=image, prompt=prompt, **known)
        for number, (image, prompt) in enumerate(zip((pictures[1], pictures[2]), prompts, strict=True))
    ]


def computed(cls: type, specs: Mapping[type, Callable[[], Any]], pictures: Sequence[Path]) -> list[Any]:
    """Return the numbers, or words, of a class."""
    if issubclass(cls, Metric):
        metric = cls(**{part: specs[spec]() for (name, part), spec in PARTS.items() if name == cls.name})
        return [value for score in metric.score(items(pictures)) for value in (score.value, *score.details.values())]
    images, spec = [read_image(path) for path in pictures[1:3]], specs[cls]()
    if isinstance(spec, EncoderSpec):
        encoder = spec.build()
        texts = encoder.encode_texts(["a photo of a toy", "a dog"]) if isinstance(encoder, ImageTextEncoder) else []
        return [value for row in (*encoder.encode_images(images), *texts) for value in row[:6].tolist()]
    if isinstance(spec, SegmenterSpec):
        masks = [one.mask for one in spec.load().segment(images, "dog")]
        quarters = [
            quarter for mask in masks for half in np.array_split(mask, 2) for quarter in np.array_split(half, 2, 1)
        ]
        return [float(quarter.mean()) for quarter in quarters]
    if isinstance(spec, BoxSpec):
        return [value for box in spec.load().find(images, "dog") for value in (box or (-1.0,) * 4)]
    return [word for sight in spec.load().look_at_files(pictures[:2]) for word in sight.values()]


PARTS = {
    **{(name, "encoder"): ClipSpec for name in ("clip_i", "clip_t", "clip_i_seg", "copies", "retrieval")},
    **{(name, "encoder"): DinoSpec for name in ("dino_i", "dinov2_i")},
    **{(name, "encoder"): HpsSpec for name in ("hpsv2", "hpsv21")},
    **{(name, "oracle"): OracleSpec for name in ("oracle_concept", "oracle_exact", "oracle_prompt")},
    ("clip_i_seg", "segmenter"): SamSpec,
    ("pickscore", "encoder"): TransformersClipSpec,
    ("siglip_t", "encoder"): SiglipSpec,
}
"""What a metric computes with, by its name and field."""


@pytest.mark.parametrize("name", CLASSES)
def test_the_numbers_of_a_version_never_change(
    name: str, specs: Any, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(segment_anything.sam_model_registry, "miniature", authors_sam)
    version = version_of(CLASSES[name])
    found = computed(CLASSES[name], specs, pictures)
    assert str(version) in GOLDEN.get(name, {}), (
        f'golden.json has no numbers of {name}, version {version}; add "{version}": '
        f"{json.dumps([round(value, 6) if isinstance(value, float) else value for value in found])}"
    )
    golden = GOLDEN[name][str(version)]
    numbers = not isinstance(golden[0], str)
    assert found == (pytest.approx(golden, rel=TOLERANCE, abs=TOLERANCE) if numbers else golden), (
        f"{name} computes other numbers than its version {version} did: raise the version, {name}.version"
    )
