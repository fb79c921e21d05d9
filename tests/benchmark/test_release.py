"""Reading valid releases, with our keys and with others."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from knowcusbench.benchmark import load_benchmark
from knowcusbench.benchmark.check import check_benchmark
from knowcusbench.benchmark.types import Benchmark, KnowledgeItem, Prompt
from knowcusbench.config.schema import GridConfig
from knowcusbench.errors import BenchmarkError, ConfigError
from knowcusbench.run.plan import select_concepts


def concepts_by_name(benchmark: Benchmark) -> dict[str, Any]:
    return {concept.name: concept for concept in benchmark.concepts}


def test_everything_in_a_release_is_read(release: Any) -> None:
    checkpoint = release.root / "visual_ckpt" / "dog"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights.safetensors").write_bytes(b"weights")

    benchmark = load_benchmark(release.write())

    dog, cat = benchmark.concepts
    assert (dog.name, dog.class_noun, dog.visual_checkpoint) == ("dog", "dog", checkpoint)
    assert dog.images == tuple(release.folder("dog") / f"0{n}.png" for n in range(4))
    assert dog.knowledge == (
        KnowledgeItem("my birthday gift", "What is my birthday gift?", "sks dog", "origin", ("What did I get?",)),
        KnowledgeItem("the one from Rome", "What is the one from Rome?", "sks dog", "origin"),
    )
    assert dog.prompts == (
        Prompt("{} on the beach", "background_change"),
        Prompt("{} in snow", "background_change"),
    )
    assert (cat.name, cat.visual_checkpoint) == ("cat", None)
    assert benchmark.notes == ()


def test_the_sample_benchmark_is_read_as_its_json_says(sample_benchmark: Path) -> None:
    benchmark = load_benchmark(sample_benchmark)

    entries = json.loads((sample_benchmark / "concept_image" / "dataset.json").read_text())
    assert [concept.name for concept in benchmark.concepts] == [entry["concept"] for entry in entries]
    for concept, entry in zip(benchmark.concepts, entries, strict=True):
        items = json.loads((sample_benchmark / "knowledge_data" / f"{concept.name}.json").read_text())
        assert [item.phrase for item in concept.knowledge] == [item["knowledge"] for item in items]
        assert [prompt.template for prompt in concept.prompts] == [p["text"] for p in entry["prompts"]]
        assert {item.answer for item in concept.knowledge} == {concept.anchor}
    assert benchmark.notes == ()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("question", ("prompt", "src", "query")),
        ("answer", ("target_new", "ans", "target")),
        ("knowledge", ("phrase", "subject")),
        ("rephrase", ("rephrase_prompt", "paraphrase", "paraphrases")),
        ("aspect", ("type", "category")),
    ],
)
def test_knowledge_is_read_under_other_keys(release: Any, ours: str, theirs: tuple[str, ...]) -> None:
    expected = load_benchmark(release.write())
    for alias in theirs:
        item = dict(release.knowledge["dog"][0])
        item[alias] = item.pop(ours)
        release.knowledge["dog"] = [item, *release.knowledge["dog"][1:]]

        benchmark = load_benchmark(release.write())

        assert benchmark == expected
        release.knowledge["dog"][0][ours] = release.knowledge["dog"][0].pop(alias)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("concept", ("name", "concept_name", "id")),
        ("class", ("class_noun", "category", "super_class")),
        ("prompts", ("generation_prompts", "prompt")),
    ],
)
def test_concepts_are_read_under_other_keys(release: Any, ours: str, theirs: tuple[str, ...]) -> None:
    expected = load_benchmark(release.write())
    original = release.dataset
    for alias in theirs:
        release.dataset = [
            {(alias if key == ours else key): value for key, value in entry.items()} for entry in original
        ]

        assert load_benchmark(release.write()) == expected


def test_dataset_json_may_be_keyed_by_concept(release: Any) -> None:
    expected = load_benchmark(release.write())
    release.dataset = {entry.pop("concept"): entry for entry in release.dataset}

    assert load_benchmark(release.write()) == expected


def test_a_concept_may_be_a_bare_list_of_bare_prompts(release: Any) -> None:
    release.dataset = {"dog": ["{} on the beach"], "cat": ["{} on the beach"]}

    dog, _ = load_benchmark(release.write()).concepts

    assert dog.prompts == (Prompt("{} on the beach", "unspecified"),)


@pytest.mark.parametrize("key", ["knowledge", "items", "data"])
def test_a_knowledge_file_may_wrap_its_list(release: Any, key: str) -> None:
    expected = load_benchmark(release.write())
    release.knowledge["dog"] = {key: release.knowledge["dog"]}

    assert load_benchmark(release.write()) == expected


@pytest.mark.parametrize("placeholder", ["{concept}", "<concept>", "[V]"])
def test_other_placeholders_are_rewritten_and_noted(release: Any, placeholder: str) -> None:
    release.dataset[1]["prompts"] = [f"a photo of {placeholder} in {{braces}}"]

    benchmark = load_benchmark(release.write())

    prompt = concepts_by_name(benchmark)["cat"].prompts[0]
    assert prompt.fill("my cat") == "a photo of my cat in {braces}"
    assert benchmark.notes == ("concept_image/dataset.json: cat: another placeholder replaced by {} in prompts 1",)


def test_an_item_without_a_phrase_leaves_its_concept_out_of_grids_that_take_it(release: Any) -> None:
    del release.knowledge["dog"][1]["knowledge"]
    release.knowledge["dog"][1]["question"] = "Where is it?"
    root = release.write()
    benchmark = load_benchmark(root)
    (note,) = benchmark.notes
    assert "dog.json: item 2: missing key 'knowledge'" in note
    assert "no phrase follows from 'Where is it?'" in note

    def names(**grid: Any) -> list[str]:
        return [concept.name for concept in select_concepts(benchmark, GridConfig(**grid))]

    assert names() == ["cat"]
    assert names(knowledge_items=1) == ["dog", "cat"]
    with pytest.raises(ConfigError, match=r"dog leaves no concept .*knowledge_items"):
        names(concepts=["dog"])
    assert "Where is it?" in check_benchmark(root).render()


def test_a_missing_phrase_is_derived_and_noted(release: Any) -> None:
    del release.knowledge["dog"][1]["knowledge"]

    benchmark = load_benchmark(release.write())

    assert concepts_by_name(benchmark)["dog"].knowledge[1].phrase == "the one from Rome"
    assert benchmark.notes == (
        "knowledge_data/dog.json: no phrase, derived from the question: items 2 'the one from Rome'",
    )


def test_a_missing_answer_is_the_anchor_and_noted(release: Any) -> None:
    del release.knowledge["cat"][0]["answer"]

    benchmark = load_benchmark(release.write())

    assert concepts_by_name(benchmark)["cat"].knowledge[0].answer == "sks cat"
    assert benchmark.notes == ("knowledge_data/cat.json: no answer, the anchor 'sks cat' assumed: items 1",)


def test_an_answer_that_is_not_the_anchor_is_noted(release: Any) -> None:
    release.knowledge["cat"][0]["answer"] = "sks tiger"

    assert load_benchmark(release.write()).notes == (
        "knowledge_data/cat.json: answer is not the anchor 'sks cat': items 1",
    )


def test_a_missing_class_noun_is_taken_from_the_answers(release: Any) -> None:
    del release.dataset[0]["class"]
    for item in release.knowledge["dog"]:
        item["answer"] = "sks golden retriever"

    benchmark = load_benchmark(release.write())

    assert concepts_by_name(benchmark)["dog"].class_noun == "golden retriever"
    assert "no class noun, 'golden retriever' taken from the answers" in benchmark.notes[0]


def test_without_answers_a_missing_class_noun_is_the_name_in_words(release: Any) -> None:
    name = "grey_sloth-plushie2"
    release.folder("cat").rename(release.folder(name))
    release.dataset[1] = {"concept": name, "prompts": ["{} on the beach"]}
    release.knowledge[name] = [{"question": "What is my neighbour?"}]
    del release.knowledge["cat"]

    concept = concepts_by_name(load_benchmark(release.write()))[name]

    assert concept.class_noun == "grey sloth plushie"
    assert concept.knowledge[0].answer == "sks grey sloth plushie"


def test_aspects_are_read_in_any_spelling(release: Any) -> None:
    release.knowledge["cat"][0]["aspect"] = "Physical Attribute"
    release.dataset[1]["prompts"][0]["aspect"] = "style-transfer"

    benchmark = load_benchmark(release.write())

    cat = concepts_by_name(benchmark)["cat"]
    assert (cat.knowledge[0].aspect, cat.prompts[0].aspect) == ("physical_attribute", "style_transfer")


def test_texts_are_stripped_and_a_byte_order_mark_is_no_fault(release: Any) -> None:
    expected = load_benchmark(release.write())
    release.knowledge["cat"][0]["question"] = "  What is my neighbour?\n"
    root = release.write()
    release.dataset_file.write_bytes(b"\xef\xbb\xbf" + release.dataset_file.read_bytes())

    assert load_benchmark(root) == expected


def test_keys_without_meaning_are_noted(release: Any) -> None:
    release.knowledge["cat"][0]["ground_truth"] = "a cat"

    assert load_benchmark(release.write()).notes == ("knowledge_data/cat.json: item: keys not used: 'ground_truth'",)


def test_hidden_files_and_other_files_are_passed_over(release: Any) -> None:
    (release.folder("dog") / ".DS_Store").write_bytes(b"finder")
    (release.folder("dog") / "credits.txt").write_text("by me")

    benchmark = load_benchmark(release.write())

    assert len(benchmark.concepts[0].images) == 4
    assert benchmark.notes == ("concept_image/dog/credits.txt: not an image, ignored",)


def test_loading_does_not_decode_images(release: Any) -> None:
    (release.folder("dog") / "00.png").write_bytes(b"damaged")

    assert len(load_benchmark(release.write()).concepts) == 2


def test_the_error_shows_the_first_fault_and_carries_all(release: Any) -> None:
    release.dataset[0]["prompts"] = ["no place", "{} twice {}"]
    root = release.write()

    with pytest.raises(BenchmarkError) as caught:
        load_benchmark(root)

    assert len(caught.value.faults) == 2
    first = "concept_image/dataset.json: dog: prompt 1: expected one {} where the concept is named"
    assert str(caught.value).startswith(f"{root}: {first}")
    assert str(caught.value).endswith(f"(and 1 more); run `knowcusbench check {root}` for all faults")


def test_a_relative_path_gives_absolute_images(release: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers in another directory must find them."""
    monkeypatch.chdir(release.write().parent)

    benchmark = load_benchmark(Path("release"))

    assert benchmark.root == release.root
    assert benchmark.concepts[0].images[0] == release.folder("dog") / "00.png"


def test_a_folder_whose_name_is_written_in_another_unicode_form_is_the_concepts(release: Any) -> None:
    """The name has the form that macOS writes to disk."""
    release.dataset[0]["concept"] = "café"
    decomposed = unicodedata.normalize("NFD", "café")
    release.folder("dog").rename(release.folder(decomposed))
    release.knowledge = {decomposed: release.knowledge["dog"], "cat": release.knowledge["cat"]}

    concept = load_benchmark(release.write()).concepts[0]

    assert concept.name == "café"
    assert len(concept.images) == 4
    assert len(concept.knowledge) == 2


@pytest.mark.parametrize("key", ["concepts", "items", "data"])
def test_an_envelope_around_the_concepts_and_one_item_without_a_list_are_read(release: Any, key: str) -> None:
    plain = load_benchmark(release.write()).digest
    release.dataset = {key: release.dataset}
    (release.knowledge["cat"],) = release.knowledge["cat"]
    assert load_benchmark(release.write()).digest == plain
