from pathlib import Path

import pytest
import torch

from knowcusbench.adaptation.benchmark import compare, dense_solve, main, random_rows, solve_and_write
from knowcusbench.adaptation.storage import load_adaptation

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
    assert table["factors [MB]"].tolist() == [3 * 4 * n * (64 + 96) / 1e6 for n in (2, 5)]
    assert (table["dense fp32 [MB]"] == 3 * 4 * 64 * 96 / 1e6).all()
    assert (table.filter(like="matrix") > 0).all(axis=None)


def test_the_command_says_what_was_timed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--inputs", "32", "--outputs", "48", "--matrices", "2", "--rows", "3", "--repeats", "1", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "2 matrices 32 -> 48 on cpu" in printed
    assert "the d x d solve is timed on one matrix" in printed
