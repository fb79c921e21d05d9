"""Drawing under trouble: short memory, failing samples, other processes."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.engine.base import WorkerBroken
from knowcusbench.errors import ConfigError, PictureError
from knowcusbench.run.layout import RunStore
from knowcusbench.stages.drawing import SIZERS, Picture, WorkLog, draw_cells
from knowcusbench.storage.files import write_atomic

Command = Callable[..., int]
Sample = Callable[..., list[Image.Image]]

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA driver error: out of memory"),
]
"""Out-of-memory errors of torch, the CUDA runtime and driver, cuBLAS, cuDNN, Python and the CPU's allocator."""


@pytest.fixture(autouse=True)
def nothing_known_of_memory() -> None:
    SIZERS.clear()


@pytest.fixture
def log(tmp_path: Path) -> WorkLog:
    return WorkLog(RunStore(tmp_path / "run"), "mokus", "generate", retries=2)


def cells_in(directory: Path) -> list[list[Picture]]:
    """Return two prompts with three seeds each."""
    return [
        [
            Picture(f"{prompt}{seed:015}", f"a {prompt} dog", seed, directory / f"{prompt}{seed}.png", {}, wanted=True)
            for seed in range(3)
        ]
        for prompt in ("a", "b")
    ]


def journal(log: WorkLog) -> list[dict]:
    (file,) = log.store.journal(log.label, "").parent.iterdir()
    return [line for line in map(json.loads, file.open()) if "images" in line]


@pytest.fixture
def undisturbed(backbone: DiffusersBackbone, log: WorkLog, tmp_path: Path) -> dict[str, bytes]:
    directory = tmp_path / "undisturbed"
    other = WorkLog(RunStore(tmp_path / "other"), "mokus", "generate", retries=0)
    assert [drawn.written for drawn in draw_cells(backbone, cells_in(directory), other)] == [3, 3]
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def drawn_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def spoil(monkeypatch: pytest.MonkeyPatch, spoiled: Callable[[Sequence[int]], Exception | None]) -> list[int]:
    """Make `sample` raise what `spoiled` returns for some noise seeds; return the sizes of all batches that were
    tried."""
    tried: list[int] = []
    sample = DiffusersBackbone.sample

    def spoiled_sample(self: DiffusersBackbone, embeds: object, noise_seeds: Sequence[int]) -> list[Image.Image]:
        tried.append(len(noise_seeds))
        if error := spoiled(noise_seeds):
            raise error
        return sample(self, embeds, noise_seeds)

    monkeypatch.setattr(DiffusersBackbone, "sample", spoiled_sample)
    return tried


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_where_memory_is_short_batches_are_halved_and_images_the_same(
    error, backbone, log, tmp_path, undisturbed, monkeypatch
):
    tried = spoil(monkeypatch, lambda seeds: error if len(seeds) > 1 else None)
    outcomes = list(draw_cells(backbone, cells_in(tmp_path / "images"), log))
    assert [drawn.written for drawn in outcomes] == [3, 3]
    assert drawn_in(tmp_path / "images") == undisturbed
    assert [line["batches"] for line in journal(log)] == [[1, 1, 1], [1, 1, 1]]
    assert tried == [3, 1, 1, 1, 1, 1, 1], "after the first, no batch is tried that has no room"


def test_the_next_job_of_a_process_knows_what_memory_has_room_for(backbone, log, tmp_path, undisturbed, monkeypatch):
    tried = spoil(monkeypatch, lambda seeds: OUT_OF_MEMORY[0] if len(seeds) > 1 else None)
    for cell in cells_in(tmp_path / "images"):
        list(draw_cells(backbone, [cell], log))
    assert tried == [3, 1, 1, 1, 1, 1, 1]
    assert drawn_in(tmp_path / "images") == undisturbed


def test_a_picture_that_is_not_finite_is_recorded_and_not_tried_again(
    backbone, log, tmp_path, undisturbed, monkeypatch
):
    tried = spoil(monkeypatch, lambda seeds: PictureError("pixels are not finite") if 1 in seeds else None)
    outcomes = list(draw_cells(backbone, cells_in(tmp_path / "images"), log, concept="dog3"))
    assert [drawn.failed for drawn in outcomes] == [("a000000000000001",), ("b000000000000001",)]
    assert drawn_in(tmp_path / "images") == {name: data for name, data in undisturbed.items() if "1" not in name}
    failure = json.loads(log.store.failure("mokus", "a000000000000001").read_text())
    assert (failure["error"], failure["attempts"]) == ("PictureError: pixels are not finite", 1)
    assert tried == [3, 1, 1, 1, 3, 1, 1, 1]


def test_a_picture_that_has_no_room_even_alone_is_recorded_and_ends_nothing(
    backbone, log, tmp_path, undisturbed, monkeypatch
):
    error = torch.AcceleratorError("CUDA error: out of memory")
    spoil(monkeypatch, lambda seeds: error if 1 in seeds else None)
    outcomes = list(draw_cells(backbone, cells_in(tmp_path / "images"), log))
    assert [drawn.failed for drawn in outcomes] == [("a000000000000001",), ("b000000000000001",)]


def test_a_sample_that_fails_alone_is_recorded_and_the_others_are_drawn(
    backbone, log, tmp_path, undisturbed, monkeypatch
):
    spoil(monkeypatch, lambda seeds: ValueError("not this one") if 1 in seeds else None)
    outcomes = list(draw_cells(backbone, cells_in(tmp_path / "images"), log, concept="dog3"))
    assert [drawn.failed for drawn in outcomes] == [("a000000000000001",), ("b000000000000001",)]
    wanted = {name: data for name, data in undisturbed.items() if "1" not in name}
    assert drawn_in(tmp_path / "images") == wanted
    failure = json.loads(log.store.failure("mokus", "a000000000000001").read_text())
    assert (failure["error"], failure["attempts"]) == ("ValueError: not this one", 3)
    assert (failure["concept"], failure["prompt"], failure["noise_seed"]) == ("dog3", "a a dog", 1)
    assert "spoiled_sample" in failure["traceback"]
    monkeypatch.undo()
    assert [drawn.written for drawn in draw_cells(backbone, cells_in(tmp_path / "images"), log)] == [1, 1]
    assert drawn_in(tmp_path / "images") == undisturbed
    assert not log.store.failure("mokus", "a000000000000001").exists()


def test_what_fails_once_is_tried_again(backbone, log, tmp_path, undisturbed, monkeypatch):
    errors = [ValueError("the batch"), ValueError("alone"), ValueError("alone again")]
    spoil(monkeypatch, lambda seeds: errors.pop(0) if errors else None)
    assert [drawn.written for drawn in draw_cells(backbone, cells_in(tmp_path / "images"), log)] == [3, 3]
    assert drawn_in(tmp_path / "images") == undisturbed
    assert not log.store.failure("mokus", "").parent.exists()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ConfigError("backbone.steps: too few"), ConfigError),
        (torch.AcceleratorError("device-side assert triggered"), WorkerBroken),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), WorkerBroken),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_would_befall_every_sample_is_raised(error, raised, backbone, log, tmp_path, monkeypatch):
    tried = spoil(monkeypatch, lambda seeds: error)
    with pytest.raises(raised):
        list(draw_cells(backbone, cells_in(tmp_path / "images"), log))
    assert tried == [3]


def test_what_another_process_draws_is_left_to_it(backbone, log, tmp_path, undisturbed):
    cells = cells_in(tmp_path / "images")
    with log.store.claims("mokus", "generate").of(cells[0][0].id):
        outcomes = list(draw_cells(backbone, cells, log))
    assert [(drawn.written, drawn.busy) for drawn in outcomes] == [(0, True), (3, False)]
    assert [drawn.written for drawn in draw_cells(backbone, cells, log)] == [3]
    assert drawn_in(tmp_path / "images") == undisturbed
    assert list(draw_cells(backbone, cells, log)) == []


def test_what_was_taken_over_meanwhile_is_not_written(backbone, log, tmp_path, monkeypatch):
    cells = cells_in(tmp_path / "images")[:1]
    place = log.store.claims("mokus", "generate").directory

    def take_over(seeds):
        (place / f"{cells[0][0].id}.1.claim").write_text("{}")

    spoil(monkeypatch, take_over)
    (drawn,) = draw_cells(backbone, cells, log)
    assert (drawn.written, drawn.busy) == (0, True)
    assert not (tmp_path / "images").exists()


def test_a_cell_is_written_and_kept_claimed_while_the_next_one_is_drawn(
    backbone, log, tmp_path, undisturbed, monkeypatch
):
    cells, claims = cells_in(tmp_path / "images"), log.store.claims("mokus", "generate").directory
    next_one = threading.Event()
    claimed: list[set[str]] = []

    def note(seeds):
        claimed.append({name.partition(".")[0] for name in os.listdir(claims) if name.endswith(".claim")})
        if len(claimed) == 2:
            next_one.set()

    def write_late(path: Path, data: bytes) -> None:
        assert next_one.wait(60)
        write_atomic(path, data)

    spoil(monkeypatch, note)
    monkeypatch.setattr("knowcusbench.stages.drawing.write_atomic", write_late)
    assert [drawn.written for drawn in draw_cells(backbone, cells, log)] == [3, 3]
    assert claimed == [{cells[0][0].id}, {cells[0][0].id, cells[1][0].id}]
    assert drawn_in(tmp_path / "images") == undisturbed
    assert os.listdir(claims) == []


def test_what_a_killed_writer_left_is_gone(backbone, log, tmp_path, undisturbed):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / ".a0.png.123-0123abcd.tmp").write_bytes(b"half")
    (folder / ".c0.png.123-0123abcd.tmp").write_bytes(b"somebody else's")
    list(draw_cells(backbone, cells_in(folder), log))
    assert sorted(os.listdir(folder)) == sorted([".c0.png.123-0123abcd.tmp", *undisturbed])


def test_what_was_drawn_is_written_when_the_next_cell_ends_the_command(
    backbone, log, tmp_path, undisturbed, monkeypatch
):
    tried = spoil(monkeypatch, lambda seeds: ConfigError("no more") if len(tried) > 1 else None)
    with pytest.raises(ConfigError):
        list(draw_cells(backbone, cells_in(tmp_path / "images"), log))
    assert drawn_in(tmp_path / "images") == {name: data for name, data in undisturbed.items() if name[0] == "a"}
    assert os.listdir(log.store.claims("mokus", "generate").directory) == []


def test_a_run_with_a_sample_that_fails_goes_on_and_says_so(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-m", "method=base,leak", "metrics=[clip_i]", "effects.enabled=false")
    bad: list[int] = []

    def spoiled(seeds: Sequence[int]) -> Exception | None:
        bad[:] = bad or [seeds[0]]
        return ValueError("bad luck") if bad[0] in seeds else None

    spoil(monkeypatch, spoiled)
    assert command("bench", tmp_path, *words) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("knowcusbench: base: 1 of 16 images are missing; ")
    assert "; leak: 1 of 16 images are missing" in error
    assert len(list((tmp_path / "run" / "images").rglob("*.png"))) == 30
    assert "7 of 8 samples" in (tmp_path / "run" / "report" / "leaderboard.md").read_text()
    monkeypatch.undo()
    assert command("bench", tmp_path, *words) == 0
    assert len(list((tmp_path / "run" / "images").rglob("*.png"))) == 32
    assert not list((tmp_path / "run" / "failures").rglob("*.json"))
    assert " of 8 samples" not in (tmp_path / "run" / "report" / "leaderboard.md").read_text()


def test_a_run_in_which_nothing_can_be_drawn_ends_early(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("knowcusbench.stages.generate.HOPELESS", 4)
    tried = spoil(monkeypatch, lambda seeds: ValueError("bad weather"))
    assert command("bench", tmp_path, "method=base", "metrics=[clip_i]", "engine.retries=0") == 2
    assert "none of the first 4 images could be drawn (ValueError: bad weather)" in capsys.readouterr().err
    assert len(tried) == 9, (
        "two cells, and the one that was drawn while the second was recorded: a batch and two singles"
    )


@pytest.mark.parametrize("number", [28, 13], ids=["full disk", "no rights"])
def test_a_disk_that_takes_no_more_is_one_line_and_nothing_is_lost(
    number: int, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("method=base", "metrics=[clip_i]", "effects.enabled=false")
    written: list[Path] = []

    def full(path: Path, data: bytes) -> None:
        if len(written) == 5:
            raise OSError(number, "No more", str(path))
        write_atomic(path, data)
        written.append(path)

    monkeypatch.setattr("knowcusbench.stages.drawing.write_atomic", full)
    assert command("bench", tmp_path, *words) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("knowcusbench: can't write ")
    assert {path.stem for path in (tmp_path / "run" / "images").rglob("*.png")} == {path.stem for path in written}
    assert not list((tmp_path / "run" / "claims").rglob("*.claim"))
    times = [path.stat().st_mtime_ns for path in written]
    monkeypatch.undo()
    assert command("bench", tmp_path, *words) == 0
    assert [path.stat().st_mtime_ns for path in written] == times
