"""Scoring during drawing: a failure is reported, and nothing is lost."""

import threading
from types import SimpleNamespace

import pytest

from knowcusbench.errors import MetricError
from knowcusbench.run.run import Run
from knowcusbench.stages import run as running


@pytest.mark.parametrize("error", [MetricError("no memory for SAM"), RuntimeError("the node is gone")])
def test_a_failing_scorer_is_told_at_once_and_drawing_goes_on(error, monkeypatch, capsys) -> None:
    failed = threading.Event()
    closed = []
    told = []

    def score(run, *, shown):
        assert not shown
        failed.set()
        raise error

    def generate(run):
        assert failed.wait(10)
        while not (output := capsys.readouterr().err):
            pass
        told.append(output)

    monkeypatch.setattr(running, "POLL", 0.01)
    monkeypatch.setattr(running, "score", score)
    monkeypatch.setattr(running, "generate", generate)
    run = Run.__new__(Run)
    monkeypatch.setattr(running, "replace", lambda run, **_: run)
    running._generate_and_score(run, SimpleNamespace(close=lambda: closed.append(True)))
    assert told[0].startswith(f"knowcusbench: scoring during drawing has ended ({type(error).__name__}: {error})")
    assert closed == [True]
