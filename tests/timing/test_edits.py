import time
from pathlib import Path

import pytest
import torch

from knowcusbench.adapters.peft_files import load_adaptation
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.timing.edits import capture_passes, compare, dense_solve, main, random_rows, solve_and_write

CPU = torch.device("cpu")


def test_what_is_timed_are_two_ways_to_the_same_change(tmp_path: Path) -> None:
    keys, values = random_rows(6, 64, 96, CPU)
    solve_and_write(keys, values, 2, tmp_path / "a")
    adapter = load_adaptation(tmp_path / "a").text_encoder
    assert adapter is not None
    expected = dense_solve(keys, values).T
    for number in (0, 1):
        name = f"layers.{number}"
        found = adapter.weights[f"{name}.lora_B.weight"] @ adapter.weights[f"{name}.lora_A.weight"]
        assert (found - expected).norm() < 2e-3 * expected.norm()


def test_the_table_has_a_line_for_each_number_of_rows() -> None:
    table = compare([2, 5], 64, 96, matrices=3, repeats=1, device=CPU)
    assert table["rows"].tolist() == [2, 5]
    for written, n in zip(table["written [MB]"], (2, 5), strict=True):
        # The files hold names and settings in addition to the factors.
        assert 0 < 1e6 * written - 3 * 4 * n * (64 + 96) < 8000
    assert (table["dense fp32 [MB]"] == 3 * 4 * 64 * 96 / 1e6).all()
    assert (table.filter(like="matrix") > 0).all(axis=None)


def test_the_command_says_what_was_timed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--inputs", "32", "--outputs", "48", "--matrices", "2", "--rows", "3", "--repeats", "1", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "2 matrices 32 -> 48 on cpu" in printed
    assert "the d x d solve is timed on one matrix" in printed
    assert "1 forward through its 6 layers, 1 backward through the last 3 of them" in printed


@pytest.mark.parametrize(("layers", "passed"), [((3, 4), 3), ((0,), 6), ((2, 5), 4), ((5,), 1)])
def test_capturing_passes_back_through_the_layers_above_the_lowest_edited_one(
    layers: tuple[int, ...], passed: int, backbone: DiffusersBackbone
) -> None:
    assert backbone.layer_count == 6
    assert capture_passes(backbone, layers) == (1, 1, passed)


def test_the_dense_solve_is_timed_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call pays for caches that later ones use."""
    solved: list[None] = []

    def slow_at_first(keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        time.sleep(0 if solved else 1.0)
        solved.append(None)
        return dense_solve(keys, values)

    monkeypatch.setattr("knowcusbench.timing.edits.dense_solve", slow_at_first)
    table = compare([2], 64, 96, matrices=2, repeats=1, device=CPU)
    assert table["d x d solve [ms/matrix]"].item() < 500
