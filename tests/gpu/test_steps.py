import json
from pathlib import Path

import pytest
import torch

from knowcusbench.gpu import steps as module
from knowcusbench.gpu.steps import Steps

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def lines(tmp_path: Path):
    path = tmp_path / "new" / "lines.jsonl"
    return path, lambda: [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def test_a_step_that_fails_keeps_what_it_found_and_ends_no_other(lines):
    path, read = lines
    steps = Steps(path, CPU, budget=10)

    def fails():
        yield {"what": "a", "seconds": 1.0}
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    steps.run("B3", 1, fails)
    steps.run("B4", 1, lambda: iter([{"what": "b", "seconds": 2.0}]))
    found = read()
    assert [line.get("what") for line in found if "took" not in line] == ["a", None, "b"]
    assert found[1] == {"step": "B3", "error": "RuntimeError: CUDA error: out of memory", "out_of_memory": True}
    assert [line["step"] for line in found if "took" in line] == ["B3", "B4"]
    assert steps.failures == [found[1]]


def test_a_line_is_in_the_file_before_the_next_one_is_made(lines):
    path, read = lines
    steps = Steps(path, CPU, budget=10)

    def looks():
        yield {"what": "first"}
        yield {"what": "second", "seen": [line["what"] for line in read()]}

    steps.run("A1", 1, looks)
    assert read()[1]["seen"] == ["first"]


def test_what_does_not_fit_the_budget_is_left_out_and_told(lines, monkeypatch):
    path, read = lines
    monkeypatch.setattr(module, "gpu_state", dict)
    monkeypatch.setattr(module, "free_memory", lambda: None)
    steps = Steps(path, CUDA, budget=50)
    steps.run("B10", 70, lambda: pytest.fail("it was run"))
    steps.run("B9", 25, lambda: iter([{"what": "b"}]))
    assert read()[0] == {"step": "B10", "skipped": "needs about 70 s, 50 s are left"}
    assert read()[1] == {"step": "B9", "what": "b"}
    assert steps.failures == []


def test_only_some_steps_can_be_asked_for_and_a_wrong_finding_is_a_failure(lines):
    path, _ = lines
    steps = Steps(path, CPU, budget=10, only=frozenset({"A2"}))
    steps.run("A1", 1, lambda: pytest.fail("it was run"))
    finding = {"what": "x", "expected": "1", "found": "2"}
    steps.run("A2", 1, lambda: iter([{**finding, "ok": False}, {**finding, "ok": None}, {**finding, "ok": True}]))
    assert [line["ok"] for line in steps.failures] == [False]


def test_a_machine_without_the_program_has_no_state(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert module.gpu_state() == {}
