"""Fixtures that several test folders share."""

from pathlib import Path

import pytest

from knowcusbench.benchmark.types import Benchmark, Concept, KnowledgeItem, Prompt

SAMPLE_BENCHMARK = Path(__file__).parents[2] / "shared" / "sample_benchmark"


@pytest.fixture(scope="session")
def sample_benchmark() -> Path:
    """Twelve subjects with 62 real photographs in the release layout."""
    return SAMPLE_BENCHMARK


@pytest.fixture
def made_up_benchmark() -> Benchmark:
    """The shape of KnowCusBench without its images: 35 concepts x 5 items, 199 prompts."""
    prompts = [Prompt(f"a photo of {{}} in place {n}", "background_change") for n in range(199)]
    concepts = tuple(
        Concept(
            name=f"concept_{n:02}",
            class_noun="dog",
            images=(),
            knowledge=tuple(
                KnowledgeItem(f"thing {k} of {n}", f"What is thing {k} of {n}?", "sks dog", "origin")
                for k in range(5)
            ),
            prompts=tuple(prompts[n::35]),
        )
        for n in range(35)
    )
    return Benchmark(Path(), concepts, "digest")
