"""Fixtures shared by several test folders."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# The models are tiny and pytest-xdist fills the cores: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from knowcusbench.benchmark.types import Benchmark, Concept, KnowledgeItem, Prompt

if TYPE_CHECKING:
    from knowcusbench.backbone import QwenImageSpec
    from knowcusbench.backbone.resident import DiffusersBackbone

pytest_plugins = [
    "fixtures.bundles",
    "fixtures.checkpoints",
    "fixtures.commands",
    "fixtures.encoders",
    "fixtures.leaderboards",
]

ROOT = Path(__file__).parents[1]
SAMPLE_BENCHMARK = ROOT / "tests" / "data" / "sample_benchmark"


MARKS = {
    "miniature": "model",
    "encoders": "model",
    "grounding_dino": "model",
    "command": "command",
    "cache_dir": "command",
    "call": "command",
    "consult": "command",
    "score": "command",
    "run_words": "command",
    "short_bench": "command",
    "understand": "command",
    "browser": "browser",
}
"""Mark of a test, by the fixture it uses."""

FOLDERS = {"engine": "command", "toymaker": "model"}
"""Mark of all tests of a folder: a Ray cluster needs its own processes."""


def pytest_configure() -> None:
    """Clear the options of the make that runs the tests: tests call make themselves."""
    variables = re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in {*os.environ} & {*variables} | {name for name in os.environ if re.match(r"MAKE|MFLAGS$", name)}:
        del os.environ[name]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, as `unit` those that need no slow one, and start files with the longest first.

    A file belongs to one worker: a long one at the end would leave the other idle.
    """
    kinds = ("command", "model", "browser", "latex", "unit")
    for item in items:
        for name in set(MARKS) & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKS[name])
        for folder, kind in FOLDERS.items():
            if item.path.is_relative_to(ROOT / "tests" / folder):
                item.add_marker(kind)
        if not any(item.get_closest_marker(kind) for kind in kinds[:-1]):
            item.add_marker("unit")
        if item.get_closest_marker("latex") and not shutil.which("pdflatex"):
            item.add_marker(
                pytest.mark.skip("needs pdflatex with booktabs (apt-get install texlive-latex-recommended)")
            )
    files = {kind: {item.path for item in items if item.get_closest_marker(kind)} for kind in kinds}
    items.sort(key=lambda item: next(place for place, kind in enumerate(kinds) if item.path in files[kind]))


@pytest.fixture(scope="session")
def sample_benchmark() -> Path:
    """Return four subjects with 22 real photographs in the release layout."""
    return SAMPLE_BENCHMARK


class Bench(NamedTuple):
    """A command that makes `run`, in its own process, and its number of samples.

    Its arguments for `main` begin with the fourth word.
    """

    command: list[str]
    run: Path
    samples: int


@pytest.fixture
def short_bench(tmp_path: Path) -> Bench:
    """Return a bench to interrupt: three concepts, two items, alone and in a prompt, two seeds."""
    grid = ("grid.concepts=[r*]", "grid.knowledge_items=2", "grid.prompts=1")
    words = ("method=base", "metrics=[clip_i]", "effects.enabled=false", *grid)
    place = (f"run.root={tmp_path}", "run.name=run", f"cache_dir={tmp_path / 'cache'}")
    command = [sys.executable, "-m", "knowcusbench", "bench", *words, *place]
    return Bench(command, tmp_path / "run", samples=3 * 2 * 2 * 2)


@pytest.fixture
def made_up_benchmark() -> Benchmark:
    """Return a benchmark of KnowCusBench's shape without its images: 35 concepts x 5 items, 199 prompts."""
    prompts = [Prompt(f"a photo of {{}} in place {n}", "background_change") for n in range(199)]
    concepts = tuple(
        Concept(
            name=f"concept_{n:02}",
            class_noun="dog",
            images=(),
            knowledge=tuple(
                KnowledgeItem(f"thing {k} of {n}", f"What is thing {k} of {n}?", "sks dog", "origin") for k in range(5)
            ),
            prompts=tuple(prompts[n::35]),
        )
        for n in range(35)
    )
    return Benchmark(Path(), concepts, "digest")


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of an untrained pipeline, even smaller than the embedded world's."""
    from knowcusbench.toybox.models.pipeline import build_pipeline

    directory = tmp_path_factory.mktemp("miniature") / "pipeline"
    build_pipeline(directory, layers=3, heads=4, channels=8)
    return directory


@pytest.fixture(scope="session")
def backbone(miniature: Path) -> "DiffusersBackbone":
    """Return the miniature backbone in the product's dtype for this machine, the fast one."""
    return miniature_spec(miniature).load()


@pytest.fixture(scope="session")
def backbone_bf16(miniature: Path) -> "DiffusersBackbone":
    """Return the same weights in bf16, for tests that need it: emulated, it is a hundred times slower than fp32."""
    return miniature_spec(miniature, dtype="bfloat16").load()


@pytest.fixture(scope="session")
def backbone_fp32(miniature: Path) -> "DiffusersBackbone":
    """Return the same weights in fp32, for comparisons that bf16 would blur."""
    return miniature_spec(miniature, dtype="float32").load()


def miniature_spec(directory: Path, **changes: Any) -> "QwenImageSpec":
    """Return the miniature in the fast dtype of this machine, with other settings."""
    import torch

    from knowcusbench.backbone import QwenImageSpec
    from knowcusbench.machine.device import fast_dtype

    size = {"height": 64, "width": 64, "steps": 3}
    computing = {"dtype": fast_dtype(torch.device("cpu")), "gradient_checkpointing": False}
    return QwenImageSpec(**{"source": str(directory), **size, **computing, **changes})


@pytest.fixture
def dog(sample_benchmark: Path) -> Concept:
    """Return a real subject with two knowledge items and one prompt."""
    images = tuple(sorted((sample_benchmark / "concept_image" / "dog3").glob("*.jpg")))
    return Concept(
        name="dog3",
        class_noun="dog",
        images=images,
        knowledge=(
            KnowledgeItem("my birthday gift", "What is my birthday gift?", "sks dog", "personal_relationship"),
            KnowledgeItem("the one from Rome", "What came from Rome?", "sks dog", "origin"),
        ),
        prompts=(Prompt("a photo of {} on the beach", "background_change"),),
        images_digest="dog3",
    )
