"""The rows of a prompts file: exactly as written, or a refusal that names the row."""

import json
from pathlib import Path

import pytest

from knowcusbench.errors import ConfigError
from knowcusbench.stages.prompts_file import read_prompts

HEAD = "image,concept,class,prompt\n"


def written(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("field", "prompt"),
    [
        ('"a photo of {}\non the beach"', "a photo of {}\non the beach"),
        ('"a photo of {}\r\non the beach"', "a photo of {}\r\non the beach"),
        ("a photo of {}\x0bon the beach", "a photo of {}\x0bon the beach"),
        ("a photo of {}\x0con the beach", "a photo of {}\x0con the beach"),
        ("a photo of {}\x1con the beach", "a photo of {}\x1con the beach"),
        ("a photo of {}\x85on the beach", "a photo of {}\x85on the beach"),
        ("a photo of {}\u2028on the beach", "a photo of {}\u2028on the beach"),
        ("a photo of {}\u2029on the beach", "a photo of {}\u2029on the beach"),
        ('"a photo of {}, on the beach"', "a photo of {}, on the beach"),
        ('"the ""best"" {}"', 'the "best" {}'),
        ("一张{}的照片", "一张{}的照片"),
        ("NA", "NA"),
        ("1.10", "1.10"),
    ],
)
def test_a_field_of_csv_is_the_text_that_was_written(tmp_path: Path, field: str, prompt: str) -> None:
    (row,) = read_prompts(written(tmp_path, "p.csv", f"{HEAD}0.png,dog,dog,{field}\n"))
    assert row["prompt"] == prompt


@pytest.mark.parametrize("breaks", ["\n", "\r\n", "\r", "\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_spread_sheets_write_marks_and_breaks_of_their_own(tmp_path: Path, breaks: str, mark: str) -> None:
    text = f"{mark}{HEAD}0.png,dog,dog,a {{}}\n1.png,cat,cat,b {{}}\n".replace("\n", breaks)
    assert [row["prompt"] for row in read_prompts(written(tmp_path, "p.CSV", text))] == ["a {}", "b {}"]


@pytest.mark.parametrize("prompt", ["a {}\u2028b", "a {}\x85b", "a {}\x1eb", "a {}\nb"])
def test_json_and_its_lines_hold_the_text_that_was_written(tmp_path: Path, prompt: str) -> None:
    line = json.dumps({"image": "0.png", "prompt": prompt}, ensure_ascii=False)
    for name, text in (("p.json", f"\ufeff[{line}]"), ("p.jsonl", f"\ufeff{line}\r\n\n{line}\n".replace("\n", "\n"))):
        assert {row["prompt"] for row in read_prompts(written(tmp_path, name, text))} == {prompt}


def test_an_object_by_image_holds_prompts_or_rows(tmp_path: Path) -> None:
    data = {"a.png": "a {}", "b.png": {"text": "b {}", "concept": 0, "class": "dog", "file_name": "b.png", "x": 1}}
    first, second = read_prompts(written(tmp_path, "p.json", json.dumps(data)))
    assert (first["image"], first["prompt"], first["concept"]) == ("a.png", "a {}", "")
    assert (second["image"], second["prompt"], second["concept"], second["class_noun"]) == (
        *("b.png", "b {}", "0", "dog"),
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", f"{HEAD}0.png,dog,dog,a {{}}, on\n", "row 1: has 5 fields, and the header 4; put a text with"),
        ("p.csv", f"{HEAD}0.png,dog,dog,a {{}}\n1.png,dog\n", "row 2: has 2 fields, and the header 4"),
        ("p.csv", "image,prompt,image\n0.png,a,1.png\n", "two columns 'image'"),
        ("p.csv", f'{HEAD}0.png,dog,dog,"a {{}}\n', "can't be read"),
        ("p.csv", f'{HEAD}0.png,dog,dog," "\n', "row 1: prompt: is blank"),
        ("p.csv", f"{HEAD}0.png,dog,dog,\u00a0\u200b\n", "row 1: prompt: is blank"),
        ("p.csv", f"{HEAD}0.png,\t,dog,a\n", "row 1: concept: is blank"),
        ("p.csv", f"{HEAD}0.png,dog,dog,\n", "row 1: no 'prompt' (or 'text', 'caption')"),
        ("p.csv", HEAD.encode("utf-16"), "not UTF-8: byte 0xff at offset 0"),
        ("p.json", '[{"image": "0.png", "prompt": 0}]', "row 1: prompt: expected a text, found 0"),
        ("p.json", '[{"image": "0.png", "prompt": 1.0}]', "row 1: prompt: expected a text, found 1.0"),
        ("p.json", '[{"image": "0.png", "prompt": true}]', "row 1: prompt: expected a text, found true"),
        ("p.json", '{"0.png": ["a", "b"]}', 'row 1: prompt: expected a text, found ["a", "b"]'),
        ("p.json", '{"0.png": {"prompt": {"en": "a"}}}', 'row 1: prompt: expected a text, found {"en": "a"}'),
        ("p.json", '{"0.png": {"prompt": "a", "image": "1.png"}}', "row 1: '0.png' has the image '1.png' too"),
        ("p.json", '[{"image": "0.png", "prompt": "a", "concept": false}]', "concept: expected a text, found false"),
        ("p.json", '[{"image": "0.png", "prompt": "a", "concept": 1.0}]', "concept: expected a text, found 1.0"),
        ("p.json", '[{"image": "0.png", "prompt": "a", "class": ["x"]}]', 'class: expected a text, found ["x"]'),
        ("p.json", '["a"]', "row 1: expected an object for each image, found 'a'"),
        ("p.json", '"a"', "expected a list of objects"),
        ("p.json", '{"0.png": "a", "0.png": "b"}', "duplicate key '0.png'"),
        ("p.jsonl", '{"image": "0.png", "prompt": "a"}\n{"image"\n', "can't be read (line 2"),
        ("p.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        ("p.txt", "", "expected .csv, .json or .jsonl"),
        (
            "p.csv",
            f"{HEAD}0.png,dog,dog,a {{}} and {{}}\n",
            "row 1: expected one {} where the concept is named, found 2",
        ),
        (
            "p.csv",
            f"{HEAD}0.png,dog,dog,a {{0}} {{1}}\n",
            "row 1: expected one {} where the concept is named, found '{0}'",
        ),
        ("p.csv", f"{HEAD}0.png,dog,dog,a {{name}}\n", "found '{name}'"),
        ("p.csv", f"{HEAD}0.png,dog,dog,a {{ }}\n", "found '{ }'"),
        ("p.csv", f"{HEAD}0.png,dog,dog,a {{{{}}}} x\n", "found '{{}}'"),
        ("p.csv", f"{HEAD}0.png,dog,dog,a [V*] x\n", "found '[V*]'"),
    ],
)
def test_what_is_no_row_is_refused_by_its_number(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_prompts(written(tmp_path, name, content))
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a {concept} on the beach", "a {} on the beach"),
        ("a <concept> on the beach", "a {} on the beach"),
        ("a [V] on the beach", "a {} on the beach"),
        ("a [V] dog on the beach", "a {} on the beach"),
        ("a dog on the beach", "a dog on the beach"),
        ("a <new1> dog", "a <new1> dog"),
        ("a {} with {curly} fur", "a {} with {curly} fur"),
    ],
)
def test_placeholders_are_those_of_benchmarks(tmp_path: Path, prompt: str, read: str) -> None:
    (row,) = read_prompts(written(tmp_path, "p.csv", f"{HEAD}0.png,dog,dog,{prompt}\n"))
    assert row["prompt"] == read
