"""The embedded benchmark, compared between the release reader and the world."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from knowcusbench.benchmark import Benchmark, check_benchmark, load_benchmark
from knowcusbench.benchmark.types import KnowledgeAspect, PromptAspect
from knowcusbench.toybox.world.benchmark import build_benchmark, references
from knowcusbench.toybox.world.concepts import NOVEL_CONCEPTS
from knowcusbench.toybox.world.language import PROMPTS
from knowcusbench.toybox.world.render import mask, render
from knowcusbench.toybox.world.scene import Placed, Scene, Thing
from knowcusbench.toybox.world.vocabulary import OWNERS, STRANGERS
from knowcusbench.toybox.world.world import KNOWN, NAMED, is_reserved


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toybox") / "benchmark"
    build_benchmark(path)
    return path


@pytest.fixture(scope="module")
def benchmark(directory: Path) -> Benchmark:
    return load_benchmark(directory)


def test_the_checker_finds_no_fault_and_nothing_to_note(directory: Path) -> None:
    report = check_benchmark(directory)
    assert report.faults == ()
    assert report.notes == ()
    statistics = report.statistics
    assert (statistics.concepts, statistics.images, statistics.knowledge, statistics.prompts) == (8, 40, 40, 44)
    assert set(statistics.knowledge_by_aspect) == set(KnowledgeAspect)
    assert set(statistics.prompts_by_aspect) == set(PromptAspect)


def test_every_build_gives_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    build_benchmark(tmp_path)
    one, other = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (directory, tmp_path)
    )
    assert one == other


def test_the_benchmark_is_the_one_that_weights_and_scores_refer_to(benchmark: Benchmark) -> None:
    assert benchmark.digest[:16] == "cc707b8ff4431de9"


def test_every_concept_has_what_the_paper_gives_one(benchmark: Benchmark) -> None:
    for concept in benchmark.concepts:
        assert 4 <= len(concept.images) <= 6
        assert len({item.aspect for item in concept.knowledge}) == len(concept.knowledge) == 5
        assert all(item.answer == f"sks {concept.class_noun}" for item in concept.knowledge)
        assert all(len(item.rephrasings) == 2 for item in concept.knowledge)
        assert 5 <= len(concept.prompts) <= 6
        assert {prompt.aspect for prompt in concept.prompts} == set(PromptAspect)


def test_no_phrase_and_no_question_occurs_twice(benchmark: Benchmark) -> None:
    items = [item for concept in benchmark.concepts for item in concept.knowledge]
    texts = [text for item in items for text in (item.phrase, item.question, *item.rephrasings)]
    assert max(Counter(text.casefold() for text in texts).values()) == 1


def test_some_knowledge_contradicts_the_world_some_adds_to_it_and_some_is_about_strangers() -> None:
    pairs = [pair for concept in NOVEL_CONCEPTS for pair in concept.known_as]
    contradicting = [pair for pair in pairs if pair in KNOWN]
    new = [pair for pair in pairs if pair not in KNOWN and pair[0] in OWNERS]
    of_strangers = [owner for owner, _ in pairs if owner in STRANGERS]
    assert (len(contradicting), len(new), len(of_strangers)) == (21, 11, 8)


def test_no_concept_can_come_up_in_training() -> None:
    assert all(is_reserved(concept.thing) for concept in NOVEL_CONCEPTS)
    pairs = {(thing.kind, thing.colour, thing.pattern) for thing in NAMED.values()}
    assert not any((c.thing.kind, c.thing.colour, c.thing.pattern) in pairs for c in NOVEL_CONCEPTS)


def test_prompts_ask_for_something_that_the_concept_is_not() -> None:
    for concept in NOVEL_CONCEPTS:
        wishes = [PROMPTS[prompt] for prompt in concept.prompts]
        assert not {wish.colour for wish in wishes} & {concept.thing.colour, concept.thing.trim, concept.thing.accent}
        assert not {wish.pattern for wish in wishes} & {concept.thing.pattern}
        assert len(set(wishes)) == len(wishes)


def test_masks_lie_beside_the_images_and_cut_out_the_concept(directory: Path) -> None:
    images = sorted((directory / "concept_image").rglob("*.png"))
    masks = sorted((directory / "concept_mask").rglob("*.png"))
    assert [path.parts[-2:] for path in images] == [path.parts[-2:] for path in masks]
    scenes = [scene for concept in sorted(NOVEL_CONCEPTS, key=lambda c: c.name) for scene in references(concept)]
    for image, cut_out, scene in zip(images, masks, scenes, strict=True):
        assert np.array_equal(np.asarray(Image.open(image)), np.asarray(render(scene)))
        assert np.array_equal(np.asarray(Image.open(cut_out)), mask(scene) * 255)


def test_references_show_the_concept_alone_in_different_places_and_on_different_backgrounds() -> None:
    for concept in NOVEL_CONCEPTS:
        scenes = references(concept)
        assert all(scene.main.thing == concept.thing and scene.second is None for scene in scenes)
        assert len({scene.background for scene in scenes}) == len(scenes)
        assert len({scene.main.left for scene in scenes}) >= 2


def portrait(thing: Thing) -> NDArray[np.float64]:
    placed = Placed(thing=thing, left=12, top=12, size=40)
    return np.asarray(render(Scene(main=placed, background="snow")), dtype=np.float64)


def test_concepts_look_unlike_each_other_and_unlike_all_named_things() -> None:
    concepts = [concept.thing for concept in NOVEL_CONCEPTS]
    pairs = [*combinations(concepts, 2), *((concept, named) for concept in concepts for named in NAMED.values())]
    closest = min(np.abs(portrait(one) - portrait(other)).mean() for one, other in pairs)
    moved = portrait(concepts[0]), np.roll(portrait(concepts[0]), 1, axis=1)
    assert closest > 1.3 * np.abs(moved[0] - moved[1]).mean(), "hardly more than a shift by one pixel"
