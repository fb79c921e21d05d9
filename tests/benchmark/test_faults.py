"""Every fault of a release is found, and named with its location."""

import os
from pathlib import Path
from typing import Any

import pytest

from knowcusbench.benchmark import check_benchmark, load_benchmark
from knowcusbench.errors import BenchmarkError


def faults(root: Path) -> tuple[str, ...]:
    """Return the faults that a check finds, after checking that loading finds the same ones."""
    found = check_benchmark(root).faults
    with pytest.raises(BenchmarkError) as caught:
        load_benchmark(root)
    assert caught.value.faults == found
    return found


def test_a_missing_directory(tmp_path: Path) -> None:
    assert faults(tmp_path / "nowhere") == ("no such directory",)


def test_an_empty_directory(tmp_path: Path) -> None:
    assert faults(tmp_path) == ("concept_image/dataset.json: missing file",)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'[\n  {"concept" "dog"}\n]', "not JSON: line 2, column 14: Expecting ':' delimiter"),
        (b'[{"concept": "caf\xe9"}]', "not UTF-8: byte 0xe9 at offset 17"),
        (b"", "not JSON: line 1, column 1: Expecting value"),
        (b'[{"concept": "dog"},]', "not JSON: line 1, column "),
        ("[]".encode("utf-16"), "not UTF-8: byte 0xff at offset 0"),
        (b"null", "holds null"),
        (b'"dog"', "expected a list of concepts or an object keyed by concept, found 'dog'"),
        (b"[]", "no concepts"),
        (b"{}", "no concepts"),
        (b"[" * 100_000, "JSON that can't be read: "),
        (b"[" + b"1" * 5000 + b"]", "JSON that can't be read: "),
    ],
)
def test_a_dataset_file_that_is_no_list_of_concepts(release: Any, content: bytes, fault: str) -> None:
    root = release.write()
    release.dataset_file.write_bytes(content)

    (found,) = faults(root)

    assert found.startswith(f"concept_image/dataset.json: {fault}")


def test_a_repeated_key_hides_a_concept(release: Any) -> None:
    root = release.write()
    release.dataset_file.write_text('{"dog": ["{} runs"], "cat": ["{} runs"], "dog": ["{} sleeps"]}')

    assert faults(root) == ("concept_image/dataset.json: duplicate key 'dog' in one object",)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (5, "concept 2: expected an object, found 5"),
        ({"class": "cat", "prompts": []}, "missing key 'concept' (or name, concept_name, id)"),
        ({"concept": "cat"}, "concept 2: missing key 'prompts' (or generation_prompts, prompt)"),
        ({"concept": 5, "prompts": []}, "concept 2: key 'concept': input should be a valid string, found 5"),
        ({"concept": "cat", "prompts": "{}"}, "key 'prompts': input should be a valid list, found '{}'"),
        ({"concept": "cat", "class": " ", "prompts": []}, "string should have at least 1 character"),
        ({"concept": "\ud800", "prompts": []}, "unable to parse raw data as a unicode string"),
    ],
)
def test_a_concept_of_the_wrong_form(release: Any, entry: Any, fault: str) -> None:
    release.dataset[1] = entry

    (found,) = faults(release.write())

    assert found.startswith("concept_image/dataset.json: concept 2: ")
    assert fault in found


@pytest.mark.parametrize(
    "name", ["猫" * 54, "a/b", "a\\b", "..", "../dog", "/etc", ".hidden", "two\nlines", "do\u202eg"]
)
def test_a_name_that_is_no_folder_name(release: Any, name: str) -> None:
    release.dataset.append({"concept": name, "class": "dog", "prompts": ["{} runs"]})

    (found,) = faults(release.write())

    assert found.startswith(f"concept_image/dataset.json: concept 3: {name!r} can't be a folder's name: it ")


def test_a_duplicate_concept(release: Any) -> None:
    release.dataset.append(release.dataset[0])

    assert faults(release.write()) == ("concept_image/dataset.json: concept 3: duplicate concept 'dog'",)


@pytest.mark.parametrize(
    ("prompts", "fault"),
    [
        ([], "no prompts"),
        ([5], "prompt 1: expected an object, found 5"),
        ([{"aspect": "origin"}], "prompt 1: missing key 'text' (or template, prompt)"),
        ([{"text": "{}", "aspect": 5}], "prompt 1: key 'aspect': input should be a valid string, found 5"),
        (
            ["a dog"],
            "prompt 1: expected one {} where the concept is named, found none in 'a dog'",
        ),
        (["{} and {}"], "prompt 1: expected one {} where the concept is named, found 2 in '{} and {}'"),
        (["a {curly} dog"], "prompt 1: expected one {} where the concept is named, found '{curly}'"),
        (["{} and <concept>"], "prompt 1: expected one {} where the concept is named, found 2"),
        (["{} runs", {"text": " {} runs"}], "prompt 2: duplicate prompt '{} runs'"),
    ],
)
def test_prompts(release: Any, prompts: list[Any], fault: str) -> None:
    release.dataset[1]["prompts"] = prompts

    (found,) = faults(release.write())

    assert found.startswith(f"concept_image/dataset.json: cat: {fault}")


@pytest.mark.parametrize(
    ("items", "fault"),
    [
        ([], "no knowledge items"),
        ({}, "expected a list of knowledge items, found {}"),
        (["my cat"], "item 1: expected an object, found 'my cat'"),
        ([{"knowledge": "my cat"}], "item 1: missing key 'question' (or prompt, src, query)"),
        ([{"question": ["Who?"]}], "item 1: key 'question': input should be a valid string, found ['Who?']"),
        (
            [{"question": "What is my cat?", "rephrase": ["Who?", 3]}],
            "item 1: key 'rephrase.1': input should be a valid string, found 3",
        ),
        (
            [{"question": "What is my cat?"}, {"question": "Who is my cat?"}],
            "duplicate knowledge 'my cat'",
        ),
        (
            [
                {"question": "Who is it?", "knowledge": "my cat", "answer": "sks cat"},
                {"question": "who is it?", "knowledge": "my friend", "answer": "sks dog"},
            ],
            "two answers to 'who is it?': 'sks cat' and 'sks dog'",
        ),
        (
            [
                {"question": "What is my café?", "knowledge": "my café", "answer": "sks cat"},
                {"question": "What  is my cafe\u0301 ?", "knowledge": "my bar", "answer": "sks dog"},
            ],
            "two answers to 'What  is my cafe\u0301 ?': 'sks cat' and 'sks dog'",
        ),
        (
            [
                {"question": "Who is it?", "knowledge": "my\u200b cat", "answer": "sks cat"},
                {"question": "Whose?", "knowledge": "My  cat", "answer": "sks cat"},
            ],
            "duplicate knowledge 'My  cat'",
        ),
    ],
)
def test_knowledge(release: Any, items: Any, fault: str) -> None:
    release.knowledge["cat"] = items

    assert faults(release.write()) == (f"knowledge_data/cat.json: {fault}",)


def test_a_knowledge_file_that_is_no_json(release: Any) -> None:
    root = release.write()
    release.knowledge_file("cat").write_text('[\n{"question": "What is my cat?"\n"answer": "sks cat"}]')

    assert faults(root) == ("knowledge_data/cat.json: not JSON: line 3, column 1: Expecting ',' delimiter",)


def test_a_concept_without_knowledge_file_or_folder(release: Any) -> None:
    release.dataset.append({"concept": "owl", "class": "owl", "prompts": ["{} flies"]})

    assert faults(release.write()) == (
        "concept_image/owl: missing folder of a concept",
        "knowledge_data/owl.json: missing file of a concept",
    )


def test_a_folder_and_a_knowledge_file_without_concept(release: Any) -> None:
    del release.dataset[1]

    assert faults(release.write()) == (
        "concept_image/cat: no such concept in concept_image/dataset.json",
        "knowledge_data/cat.json: no such concept in concept_image/dataset.json",
    )


def test_a_concept_without_images(release: Any) -> None:
    for image in release.folder("cat").iterdir():
        image.unlink()

    assert faults(release.write()) == ("concept_image/cat: no images",)


def test_a_link_to_a_file_outside_is_not_followed(release: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes((release.folder("cat") / "00.png").read_bytes())
    (release.folder("cat") / "09.png").symlink_to(tmp_path / "secret.png")
    release.write()
    release.knowledge_file("cat").rename(tmp_path / "cat.json")
    release.knowledge_file("cat").symlink_to("../../cat.json")

    assert faults(release.root) == (
        "concept_image/cat/09.png: symbolic link out of the benchmark directory",
        "knowledge_data/cat.json: symbolic link out of the benchmark directory",
        "knowledge_data/cat.json: missing file of a concept",
    )


@pytest.mark.parametrize("place", ["concept_image", "concept_image/cat", "knowledge_data"])
def test_a_link_to_a_folder_outside_is_not_followed(release: Any, tmp_path: Path, place: str) -> None:
    folder = release.write() / place
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")

    assert f"{place}: symbolic link out of the benchmark directory" in faults(release.root)


def test_a_link_out_of_a_visual_checkpoint(release: Any, tmp_path: Path) -> None:
    folder = release.root / "visual_ckpt" / "dog"
    folder.mkdir(parents=True)
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    (folder / "weights.safetensors").symlink_to(tmp_path / "weights.safetensors")

    assert faults(release.write()) == (
        "visual_ckpt/dog/weights.safetensors: symbolic link out of the benchmark directory",
    )


def test_links_inside_the_directory_are_followed(release: Any) -> None:
    (release.folder("cat") / "04.png").symlink_to("../dog/00.png")

    assert check_benchmark(release.write()).faults == ()


def test_broken_and_circular_links(release: Any) -> None:
    (release.folder("cat") / "07.png").symlink_to("gone.png")
    (release.folder("cat") / "08.png").symlink_to("08.png")

    assert faults(release.write()) == (
        "concept_image/cat/07.png: missing file (a broken link)",
        "concept_image/cat/08.png: missing file (a broken link)",
    )


def test_a_pipe_is_not_opened(release: Any) -> None:
    os.mkfifo(release.folder("cat") / "09.png")

    assert faults(release.write()) == ("concept_image/cat/09.png: not a regular file",)


def test_a_file_name_that_is_not_utf_8(release: Any) -> None:
    (Path(os.fsdecode(os.fsencode(release.folder("cat")) + b"/caf\xe9.png"))).write_bytes(b"")

    (found,) = faults(release.write())

    assert found == r"concept_image/cat/caf\udce9.png: file name with control characters or not in UTF-8"


def test_several_faults_are_all_reported(release: Any) -> None:
    """One fault of each kind at once: none hides another."""
    release.dataset[0]["prompts"] = ["no place", "{} runs", "{} runs"]
    release.dataset[1]["prompts"][0] = 7
    release.dataset.append({"concept": "../up", "prompts": ["{}"]})
    release.knowledge["dog"][0]["question"] = None
    release.knowledge["dog"].append({"question": "Where?", "answer": 3})
    release.knowledge["cat"] = []
    (release.folder("dog") / "01.png").write_bytes(b"")
    image = release.folder("cat") / "02.png"
    root = release.write()
    image.write_bytes(image.read_bytes()[:-40])

    report = check_benchmark(root)

    assert [fault.partition(": ")[0] for fault in report.faults] == [
        "concept_image/dataset.json",
        "knowledge_data/cat.json",
        "knowledge_data/dog.json",
        "knowledge_data/dog.json",
        "concept_image/dataset.json",
        "concept_image/dataset.json",
        "concept_image/dataset.json",
        "concept_image/cat/02.png",
        "concept_image/dog/01.png",
    ]
    assert report.digest is None
    assert all(fault in report.render() for fault in report.faults)
