"""The store of embeddings: computed once, shared by processes, and never mixed between encoders."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from knowcusbench.encoders.clip import ClipEncoder, ClipSpec
from knowcusbench.encoders.store import EmbeddingStore, Rows
from knowcusbench.errors import WeightsError
from knowcusbench.toybox.models.encoders import build_clip


class Counting:
    """Computes rows from their keys, and records its calls."""

    def __init__(self, width: int = 3) -> None:
        self.asked: list[list[str]] = []
        self.width = width

    def __call__(self, keys: list[str]) -> Rows:
        self.asked.append(keys)
        return np.stack([np.full(self.width, int(key, 16), dtype=np.float32) for key in keys])


@pytest.mark.parametrize("kept", [True, False])
def test_a_row_is_computed_once(tmp_path: Path, kept: bool) -> None:
    store, compute = EmbeddingStore(tmp_path if kept else None), Counting()
    np.testing.assert_array_equal(store.fetch(["a", "b", "a"], compute)[:, 0], [10, 11, 10])
    np.testing.assert_array_equal(store.fetch(["c", "b"], compute)[:, 0], [12, 11])
    assert compute.asked == [["a", "b"], ["c"]]


def test_another_process_finds_the_rows_of_all_earlier_ones(tmp_path: Path) -> None:
    compute = Counting()
    EmbeddingStore(tmp_path).fetch(["a", "b"], compute)
    EmbeddingStore(tmp_path).fetch(["b", "c"], compute)
    rows = EmbeddingStore(tmp_path).fetch(["c", "a", "b"], compute)
    np.testing.assert_array_equal(rows, np.repeat([[12.0], [10.0], [11.0]], 3, axis=1))
    assert compute.asked == [["a", "b"], ["c"]]


def test_running_processes_find_each_others_rows(tmp_path: Path) -> None:
    one, other, compute = EmbeddingStore(tmp_path), EmbeddingStore(tmp_path), Counting()
    one.fetch(["a", "b"], compute)
    np.testing.assert_array_equal(other.fetch(["b", "c"], compute)[:, 0], [11, 12])
    np.testing.assert_array_equal(one.fetch(["c", "a"], compute)[:, 0], [12, 10])
    assert compute.asked == [["a", "b"], ["c"]]


def test_what_was_written_by_two_at_once_is_one_row(tmp_path: Path) -> None:
    one, other, compute = EmbeddingStore(tmp_path), EmbeddingStore(tmp_path), Counting()

    def beside(keys: list[str]) -> Rows:
        other.fetch(keys, compute)
        return compute(keys)

    one.fetch(["a"], beside)
    assert compute.asked == [["a"], ["a"]]
    np.testing.assert_array_equal(EmbeddingStore(tmp_path).fetch(["a"], Counting(0)), [[10, 10, 10]])


@pytest.mark.parametrize("part", ["keys", "rows"])
def test_a_damaged_file_is_named_and_its_rows_are_computed_again(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    EmbeddingStore(tmp_path).fetch(["a"], Counting())
    (file,) = tmp_path.glob(f"*.{part}.npy")
    file.write_bytes(file.read_bytes()[:-2])
    compute = Counting()
    EmbeddingStore(tmp_path).fetch(["a"], compute)
    assert compute.asked == [["a"]]
    assert file.name.partition(".")[0] in capsys.readouterr().err


def test_rows_without_keys_are_passed_over(tmp_path: Path) -> None:
    """A process killed between writing the two files leaves rows without keys."""
    EmbeddingStore(tmp_path).fetch(["a"], Counting())
    next(tmp_path.glob("*.keys.npy")).unlink()
    compute = Counting()
    EmbeddingStore(tmp_path).fetch(["a"], compute)
    assert compute.asked == [["a"]]


def test_rows_of_another_width_are_refused(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path).fetch(["a"], Counting(3))
    with pytest.raises(WeightsError, match=r"holds embeddings of 3 numbers, and the encoder gives 4; remove"):
        EmbeddingStore(tmp_path).fetch(["b"], Counting(4))


def test_numbers_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path).fetch(["a"], lambda keys: np.full((1, 2), np.nan, dtype=np.float32))
    assert not list(tmp_path.iterdir())


def test_an_encoder_reads_an_image_once_for_all_processes(
    clip: ClipSpec, dogs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(clip, store=str(tmp_path))
    first = ClipEncoder(spec).embed_files(dogs)
    encoded: list[int] = []
    monkeypatch.setattr(ClipEncoder, "image_features", lambda self, pixels: encoded.append(len(pixels)))
    again = ClipEncoder(spec).embed_files([*dogs, dogs[0]])
    assert encoded == []
    assert all(torch.equal(first[file], again[file]) for file in dogs)


def test_other_weights_and_settings_have_rows_of_their_own(clip: ClipSpec, tmp_path: Path) -> None:
    copy = tmp_path / "clip"
    build_clip(copy)
    there = replace(clip, source=str(copy))
    assert replace(there, device="cpu", batch_size=3, store=str(tmp_path)).key == there.key
    assert replace(there, dtype="bfloat16").key != there.key
    before = there.key
    weights = copy / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert there.key != before


def test_a_renamed_image_has_its_row_and_a_changed_one_another(clip: ClipSpec, tmp_path: Path) -> None:
    encoder = ClipEncoder(replace(clip, store=str(tmp_path / "store")))
    for name, colour in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / name)
    rows = encoder.embed_files([tmp_path / name for name in ("a.png", "b.png", "c.png")])
    assert torch.equal(rows[tmp_path / "a.png"], rows[tmp_path / "b.png"])
    assert not torch.equal(rows[tmp_path / "a.png"], rows[tmp_path / "c.png"])
    (tmp_path / "a.png").write_bytes((tmp_path / "c.png").read_bytes())
    changed = encoder.embed_files([tmp_path / "a.png"])[tmp_path / "a.png"]
    assert torch.equal(changed, rows[tmp_path / "c.png"])


@pytest.mark.parametrize("noun", ["Hündchen", "狗", "🐕", "tête de chien", "dog "])
def test_a_key_in_any_script_is_found_again(tmp_path: Path, noun: str) -> None:
    keys = [f"digest {noun}", "digest dog"]
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    EmbeddingStore(tmp_path).fetch(keys, lambda missing: rows)
    again = EmbeddingStore(tmp_path).fetch(keys[::-1], lambda missing: pytest.fail(f"{missing} were there"))
    np.testing.assert_array_equal(again, rows[::-1])
