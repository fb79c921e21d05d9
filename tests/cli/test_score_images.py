"""Scoring images that another program made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from knowcusbench.cli.main import main
from knowcusbench.errors import ConfigError
from knowcusbench.stages.score_images import read_folder
from knowcusbench.toybox import embedded

OURS = ("encoders=miniature", "metrics=[clip_i,clip_t]")


@pytest.fixture
def folder(sample_benchmark: Path, tmp_path: Path) -> Path:
    """Images by concept, references by concept, and a prompts file."""
    for name in ("dog3", "duck_toy"):
        photographs = sorted((sample_benchmark / "concept_image" / name).glob("*.jpg"))
        for part, some in (("images", photographs[:2]), ("references", photographs[2:4])):
            (tmp_path / part / name).mkdir(parents=True)
            for number, file in enumerate(some):
                shutil.copy(file, tmp_path / part / name / f"{number}.jpg")
    rows = [
        {"image": f"{name}/{number}.jpg", "prompt": "a photo of a {} in the snow", "class_noun": noun}
        for name, noun in (("dog3", "dog"), ("duck_toy", "toy"))
        for number in range(2)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "prompts.csv", index=False)
    return tmp_path


@pytest.fixture
def score(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    cache = tmp_path_factory.mktemp("cache")

    def run(*arguments: str, prompts: str = "prompts.csv") -> int:
        options = ("--images", str(folder / "images"), "--prompts", str(folder / prompts))
        try:
            main(["score", *options, f"cache_dir={cache}", *arguments])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


def references(folder: Path) -> tuple[str, str]:
    return "--references", str(folder / "references")


def test_scores_are_cosines_with_the_references_of_an_images_own_folder(score, folder: Path, capsys) -> None:
    from knowcusbench.encoders.clip import ClipSpec

    assert score(*references(folder), "--output", str(folder / "scores.csv"), *OURS) == 0
    table = pd.read_csv(folder / "scores.csv").set_index(["metric", "image"])
    encoder = ClipSpec(source=str(embedded("clip", "~/.cache/knowcusbench")), device="cpu").load()
    for name, noun in (("dog3", "dog"), ("duck_toy", "toy")):
        theirs = encoder.encode_images([Image.open(f) for f in sorted((folder / "references" / name).iterdir())])
        (text,) = encoder.encode_texts([f"a photo of a {noun} in the snow"])
        for number in range(2):
            (image,) = encoder.encode_images([Image.open(folder / "images" / name / f"{number}.jpg")])
            row = f"{name}/{number}.jpg"
            assert table.loc[("clip_i", row), "value"] == pytest.approx(float((theirs @ image).mean()), abs=1e-5)
            assert table.loc[("clip_t", row), "value"] == pytest.approx(float(text @ image), abs=1e-5)
    record = json.loads((folder / "scores.json").read_text())
    assert record["protocol"]["name"] == "mokus"
    assert [row["images"] for row in record["scores"]] == [4, 4]
    means = table["value"].groupby(level="metric").mean()
    assert [row["mean"] for row in record["scores"]] == pytest.approx([means["clip_i"], means["clip_t"]])
    assert "CLIP-I" in capsys.readouterr().out


def test_a_damaged_image_is_told_and_the_others_are_scored(score, folder: Path, capsys) -> None:
    output = folder / "scores.csv"
    assert score(*references(folder), "--output", str(output), *OURS) == 0
    whole = pd.read_csv(output).set_index(["metric", "image"])["value"]
    damaged = folder / "images" / "dog3" / "1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    assert score(*references(folder), "--output", str(output), *OURS) == 3
    errors = capsys.readouterr().err.splitlines()
    assert sum(line.startswith(f"knowcusbench: not scored: {damaged}: ") for line in errors) == 1
    assert errors[-1].startswith(f"knowcusbench: 1 of 4 images of {folder / 'images'} have no score")
    table = pd.read_csv(output, keep_default_na=False).set_index(["metric", "image"])
    assert (table["value"] == "").sum() == 2
    assert table["note"].str.startswith(str(damaged)).sum() == 2
    found = pd.read_csv(output).set_index(["metric", "image"])["value"].dropna()
    assert found.to_dict() == whole.drop("dog3/1.jpg", level="image").to_dict()
    record = json.loads((folder / "scores.json").read_text())
    assert [row["images"] for row in record["scores"]] == [3, 3]


def test_where_no_image_can_be_read_there_is_no_table(score, folder: Path, capsys) -> None:
    for path in (folder / "images").rglob("*.jpg"):
        path.write_bytes(b"nothing")
    assert score(*OURS, "metrics=[clip_t]") == 2
    assert "none of the images of" in capsys.readouterr().err


def test_a_known_factor_between_protocols(score, folder: Path) -> None:
    values = {}
    for protocol in ("mokus", "customconcept101", "dreambench_plus"):
        output = folder / f"{protocol}.csv"
        arguments = (f"protocol={protocol}", "protocol.text_form=class_noun", "--output", str(output))
        assert score("encoders=miniature", "metrics=[clip_t]", *arguments) == 0
        values[protocol] = pd.read_csv(output)["value"].to_numpy()
    np.testing.assert_allclose(values["customconcept101"], 2.5 * values["mokus"].clip(0), atol=1e-6)
    np.testing.assert_allclose(values["dreambench_plus"], 100 * values["mokus"], atol=1e-2)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_prompts_in_other_forms_and_names_are_the_same(score, folder: Path, suffix: str) -> None:
    assert score("--output", str(folder / "csv.csv"), "encoders=miniature", "metrics=[clip_t]") == 0
    rows = [
        {"file_name": row["image"], "text": row["prompt"], "class": row["class_noun"]}
        for row in pd.read_csv(folder / "prompts.csv").to_dict("records")
    ]
    text = json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows))
    (folder / f"other{suffix}").write_text(text)
    arguments = ("--output", str(folder / "other.csv"), "encoders=miniature", "metrics=[clip_t]")
    assert score(*arguments, prompts=f"other{suffix}") == 0
    assert (folder / "other.csv").read_bytes() == (folder / "csv.csv").read_bytes()


def test_an_object_of_prompts_by_image_will_do(score, folder: Path) -> None:
    (folder / "plain.json").write_text(json.dumps({"dog3/0.jpg": "a dog"}))
    assert score("encoders=miniature", "metrics=[clip_t]", prompts="plain.json") == 0


def test_the_published_encoders_are_the_default(score, folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert score("metrics=[clip_t]") == 2
    assert "timm/vit_base_patch32_clip_224.openai" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,prompt\n", "has no rows"),
        (
            "picture,prompt\na.png,x\n",
            "row 1: no 'image' (or 'file', 'file_name', 'filename', 'path'); it has 'picture'",
        ),
        ("image,prompt\ndog3/9.jpg,x\n", "dog3/9.jpg is no file"),
        ("image,prompt\ndog3/0.jpg,x\ndog3/0.jpg,y\n", "dog3/0.jpg has more than one row"),
        ("image,prompt\ndog3/0.jpg,\n", "row 1: no 'prompt'"),
        ("image,prompt,concept\ndog3/0.jpg,x,dog\n", "no reference images of the concept 'dog'"),
    ],
)
def test_a_mistake_in_the_prompts_is_one_line(score, folder: Path, capsys, content: str, message: str) -> None:
    (folder / "bad.csv").write_text(content)
    assert score(*references(folder), *OURS, prompts="bad.csv") == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (OURS, "clip_i: needs --references"),
        (("--reference", "x", *OURS), "--reference"),
        (("--output", "scores.xlsx", *OURS), "ends in .csv"),
        (("metrics=[clip_x]",), "clip_x"),
        (("protocol=mokuss",), "did you mean 'mokus'"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(score, capsys, arguments: tuple[str, ...], message: str) -> None:
    assert score(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_images_without_a_row_are_counted(score, folder: Path, capsys) -> None:
    (folder / "one.csv").write_text("image,prompt\ndog3/0.jpg,a dog\n")
    assert score("encoders=miniature", "metrics=[clip_t]", prompts="one.csv") == 0
    assert "3 images of" in capsys.readouterr().err


def test_bad_images_are_named(score, folder: Path, capsys) -> None:
    (folder / "images" / "dog3" / "0.jpg").write_bytes(b"not an image")
    assert score("encoders=miniature", "metrics=[clip_t]") == 3
    assert "dog3/0.jpg: not an image" in capsys.readouterr().err


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One image, and references of a dog and a duck, whose pixels don't matter."""
    for name in ("images/0.png", "references/dog/0.png", "references/duck/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    return tmp_path


def read(root: Path, row: str, head: str = "image,prompt,concept"):
    (root / "p.csv").write_text(f"{head}\n{row}\n", encoding="utf-8")
    return read_folder(root / "images", root / "p.csv", root / "references")


@pytest.mark.parametrize("concept", ["dgo", "d*", "dog[0]", "0"])
def test_a_concept_without_references_never_gets_those_of_the_root(pictures: Path, concept: str) -> None:
    Image.new("RGB", (2, 2)).save(pictures / "references" / "stray.png")
    with pytest.raises(ConfigError, match="row 1: no reference images of the concept"):
        read(pictures, f"0.png,a,{concept}")
    (item,) = read(pictures, "0.png,a,").items
    assert item.references == (pictures / "references" / "stray.png",)


def test_a_concept_is_found_under_another_spelling_of_its_name(pictures: Path) -> None:
    (pictures / "references" / "dog").rename(pictures / "references" / "cafe\u0301")
    (item,) = read(pictures, "0.png,a,café").items
    assert item.references == (pictures / "references" / "cafe\u0301" / "0.png",)


@pytest.mark.parametrize("name", [".ipynb_checkpoints/0.png", "dog/._0.png", "__MACOSX/0.png", "__MACOSX/dog/0.png"])
def test_hidden_files_and_folders_are_passed_over(pictures: Path, name: str) -> None:
    for part in ("images", "references"):
        (pictures / part / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / part / name).write_bytes(b"")
    found = read(pictures, "0.png,a,dog")
    assert found.left_out == 0
    assert found.items[0].gallery.keys() == {"dog", "duck"}
    assert found.items[0].references == (pictures / "references" / "dog" / "0.png",)


@pytest.mark.parametrize("suffix", ["heic", "AVIF", "jp2", "tga", "CR2"])
def test_references_in_a_format_that_is_not_read_are_refused(pictures: Path, suffix: str) -> None:
    (pictures / "references" / "dog" / f"1.{suffix}").write_bytes(b"x")
    with pytest.raises(ConfigError, match=rf"1\.{suffix}: a picture in a format that isn't read; convert it"):
        read(pictures, "0.png,a,dog")
