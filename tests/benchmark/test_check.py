"""Statistics, notes, and faults that only a check finds: images that do not decode."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from knowcusbench.benchmark import check_benchmark, load_benchmark
from knowcusbench.benchmark.check import GridCounts, benchmark_statistics
from knowcusbench.benchmark.types import Benchmark
from knowcusbench.config.schema import GridConfig, Pairing
from knowcusbench.run.plan import counts, make_plan, select_concepts


def test_the_sample_benchmark_has_the_documented_counts(sample_benchmark: Path) -> None:
    report = check_benchmark(sample_benchmark)

    statistics = report.statistics
    assert (statistics.concepts, statistics.images) == (4, 22)
    assert (statistics.knowledge, statistics.prompts, statistics.distinct_prompts) == (20, 22, 15)
    assert statistics.paired == GridCounts(reconstruction=100, generation=550)
    assert statistics.paired.total == 650
    assert statistics.crossed == GridCounts(reconstruction=100, generation=20 * 15 * 5)
    assert sum(statistics.knowledge_by_aspect.values()) == 20
    assert statistics.prompts_by_aspect == {
        "attribute_modification": 5,
        "background_change": 8,
        "object_insertion": 5,
        "style_transfer": 4,
    }
    assert (report.faults, report.notes) == ((), ())
    assert report.digest == load_benchmark(sample_benchmark).digest


def test_the_paper_sized_benchmark_has_the_counts_of_both_grids(made_up_benchmark: Benchmark) -> None:
    statistics = benchmark_statistics(made_up_benchmark)

    assert statistics.paired == GridCounts(reconstruction=875, generation=4975)
    assert statistics.crossed == GridCounts(reconstruction=875, generation=174_125)


@pytest.mark.parametrize("pairing", Pairing)
def test_sample_counts_agree_with_the_plan(sample_benchmark: Path, pairing: Pairing) -> None:
    benchmark = load_benchmark(sample_benchmark)
    grid = GridConfig(pairing=pairing, seeds=[0, 1, 2, 3, 4])
    planned = counts(make_plan(select_concepts(benchmark, grid), grid))

    expected = getattr(benchmark_statistics(benchmark), pairing.value)

    assert planned == {"reconstruction": expected.reconstruction, "generation": expected.generation}


def test_the_report_shows_every_number(sample_benchmark: Path) -> None:
    report = check_benchmark(sample_benchmark)

    lines = {" ".join(line.split()) for line in report.render().splitlines()}

    assert {
        "concepts 4",
        "reference images 22",
        "knowledge items 20",
        "emotion 2",
        "prompts 22 (15 distinct)",
        "style_transfer 4",
        "paired grid 650 (100 reconstruction, 550 generation)",
        "crossed grid 1,600 (100 reconstruction, 1,500 generation)",
        f"digest {report.digest}",
        "notes: none",
        "faults: none",
    } <= lines


def save_with_orientation(path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (8, 8)).save(path, exif=exif)


@pytest.mark.parametrize(
    ("save", "treatment"),
    [
        (save_with_orientation, "exif rotation"),
        (lambda path: Image.new("RGBA", (8, 8)).save(path), "alpha"),
        (lambda path: Image.new("P", (8, 8)).save(path), "palette"),
        (lambda path: Image.fromarray(np.zeros((8, 8), np.uint16)).save(path), "16-bit"),
    ],
)
def test_converted_images_are_noted(release: Any, save: Any, treatment: str) -> None:
    save(release.folder("cat") / "00.png")

    report = check_benchmark(release.write())

    assert report.faults == ()
    assert report.notes == (f"concept_image/cat/00.png: converted to RGB: {treatment}",)


def damage_by_cutting(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-500])


def damage_by_size(path: Path) -> None:
    Image.new("1", (9_500, 9_500)).save(path)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (damage_by_cutting, "damaged or truncated image: "),
        (damage_by_size, "decompression bomb"),
        (lambda path: path.write_text("text"), "not an image"),
        (lambda path: path.write_bytes(b""), "image file is empty"),
    ],
)
def test_every_image_that_does_not_decode_is_a_fault(release: Any, damage: Any, fault: str) -> None:
    for name in ("00.png", "03.png"):
        damage(release.folder("dog") / name)

    report = check_benchmark(release.write())

    first, second = report.faults
    assert first.startswith("concept_image/dog/00.png: ")
    assert second.startswith("concept_image/dog/03.png: ")
    assert fault in first
    assert report.digest is None
    assert "digest none, see the faults" in " ".join(report.render().split())


def test_unusual_image_counts_are_noted(release: Any) -> None:
    (release.folder("cat") / "03.png").unlink()

    assert check_benchmark(release.write()).notes == ("concept_image/cat: 3 images, 4 to 6 are usual",)


def test_other_aspects_are_noted_and_counted(release: Any) -> None:
    release.knowledge["cat"][0]["aspect"] = "history"
    release.dataset[0]["prompts"][1]["aspect"] = "weather"

    report = check_benchmark(release.write())

    assert report.notes == (
        "aspects: knowledge aspect 'history' is not one of the paper's",
        "aspects: prompt aspect 'weather' is not one of the paper's",
    )
    assert report.statistics.knowledge_by_aspect == {"history": 1, "origin": 2}


def test_disagreements_between_concepts_are_noted(release: Any) -> None:
    release.dataset[1]["prompts"][0]["aspect"] = "style_transfer"
    release.knowledge["cat"][0] |= {"question": "What is my birthday gift?"}

    assert check_benchmark(release.write()).notes == (
        "prompts: '{} on the beach' has different aspects: background_change, style_transfer",
        "knowledge: 'What is my birthday gift?' has different answers in different concepts",
    )


def test_a_checkpoint_of_no_concept_is_noted(release: Any) -> None:
    folder = release.root / "visual_ckpt" / "owl"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")

    (note,) = check_benchmark(release.write()).notes

    assert note.startswith("visual_ckpt/owl: no such concept")


def test_a_copy_of_a_reference_has_a_note(release: Any) -> None:
    shutil.copy(release.folder("dog") / "00.png", release.folder("dog") / "00 (1).png")
    report = check_benchmark(release.write())
    assert "concept_image/dog/00.png: the same as 00 (1).png, which so counts twice" in report.notes
    assert not report.faults


@pytest.mark.parametrize("name", ["05.heic", "05.AVIF", "05.tga"])
def test_a_reference_in_a_format_that_is_not_read_is_a_fault(release: Any, name: str) -> None:
    (release.folder("dog") / name).write_bytes(b"x")
    (fault,) = check_benchmark(release.write()).faults
    assert fault.startswith(f"concept_image/dog/{name}: a picture in a format that isn't read; convert it")


def test_folders_of_archives_by_macos_are_passed_over(release: Any) -> None:
    for place in ("concept_image/__MACOSX/dog", "knowledge_data/__MACOSX", "concept_image/dog/__MACOSX"):
        (release.root / place).mkdir(parents=True)
    assert not check_benchmark(release.write()).faults
