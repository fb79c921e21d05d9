"""Miniature encoders and real photographs."""

from pathlib import Path

import pytest
from metrics.clip_twin import ClipTwin
from metrics.small_checkpoints import build_dino, build_dinov2, build_hps, build_siglip2

from knowcusbench.metrics.base import ScoreItem
from knowcusbench.metrics.boxes import WholeImageBoxes
from knowcusbench.metrics.clip import ClipSpec
from knowcusbench.metrics.clip_transformers import TransformersClipSpec
from knowcusbench.metrics.dino import DinoSpec
from knowcusbench.metrics.hps import HpsSpec
from knowcusbench.metrics.sam import SamSpec
from knowcusbench.metrics.siglip import SiglipSpec
from knowcusbench.toybox.encoders import build_clip, build_pickscore, build_sam


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the miniature checkpoints `clip`, `pickscore` and `sam`, and small ones of other encoders."""
    root = tmp_path_factory.mktemp("encoders")
    build_clip(root / "clip")
    build_pickscore(root / "pickscore")
    build_sam(root / "sam")
    build_dino(root / "dino")
    build_dinov2(root / "dinov2")
    build_hps(root / "hps")
    build_siglip2(root / "siglip")
    return root


@pytest.fixture(scope="session")
def clip(encoders: Path) -> ClipSpec:
    return ClipSpec(source=str(encoders / "clip"), device="cpu")


@pytest.fixture(scope="session")
def preference(encoders: Path) -> TransformersClipSpec:
    directory = str(encoders / "pickscore")
    return TransformersClipSpec(source=directory, processor=directory, device="cpu")


@pytest.fixture(scope="session")
def segmenter(encoders: Path) -> SamSpec:
    return SamSpec(source=str(encoders / "sam"), boxes=WholeImageBoxes(), device="cpu")


@pytest.fixture(scope="session")
def dino(encoders: Path) -> DinoSpec:
    return DinoSpec(source=str(encoders / "dino"), device="cpu")


@pytest.fixture(scope="session")
def dinov2(encoders: Path) -> DinoSpec:
    return DinoSpec(source=str(encoders / "dinov2"), device="cpu")


@pytest.fixture(scope="session")
def hps(encoders: Path) -> HpsSpec:
    directory = encoders / "hps"
    return HpsSpec(
        source=str(directory), file="HPS_v2_compressed.pt", architecture=f"local-dir:{directory}", device="cpu"
    )


@pytest.fixture(scope="session")
def siglip(encoders: Path) -> SiglipSpec:
    return SiglipSpec(source=str(encoders / "siglip"), device="cpu")


@pytest.fixture(scope="session")
def dogs(sample_benchmark: Path) -> list[Path]:
    """Six photographs of one dog."""
    return sorted((sample_benchmark / "concept_image" / "dog3").glob("*.jpg"))


@pytest.fixture(scope="session")
def ducks(sample_benchmark: Path) -> list[Path]:
    """Four photographs of one toy duck."""
    return sorted((sample_benchmark / "concept_image" / "duck_toy").glob("*.jpg"))


@pytest.fixture(scope="session")
def items(dogs: list[Path], ducks: list[Path]) -> list[ScoreItem]:
    """Photographs of two subjects as if they had been generated for the other one."""
    return [
        ScoreItem(f"duck{n}", image, tuple(dogs[:3]), f"a dog in place {n}", "dog") for n, image in enumerate(ducks)
    ] + [ScoreItem(f"dog{n}", image, tuple(ducks), f"a toy in place {n}", "toy") for n, image in enumerate(dogs)]


@pytest.fixture(scope="session")
def twin(encoders: Path) -> ClipTwin:
    """The miniature CLIP in transformers."""
    return ClipTwin(encoders / "clip")
