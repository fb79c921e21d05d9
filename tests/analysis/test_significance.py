"""Marked methods, from hand-made scores of eight concepts."""

import numpy as np
import pandas as pd
import pytest

from knowcusbench.adaptation.method import Role
from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.significance import significant_marks
from knowcusbench.analysis.statistics import build_statistics
from knowcusbench.analysis.types import Mark

CONCEPTS = 8
KEY = "generation_clip_t"


@pytest.fixture
def marks(report_input):
    """Return the marks in the column of CLIP-T from {method: score of every concept}; "anchor" is a control."""

    def make(values, planned=CONCEPTS):
        roles = {name: Role.CEILING if name == "anchor" else Role.METHOD for name in values}
        table = pd.DataFrame(
            [(method, f"c{number}", value) for method, of in values.items() for number, value in enumerate(of)],
            columns=["method", "concept", "value"],
        )
        table = table.assign(
            sample_id=table["concept"],
            task="generation",
            metric="clip_t",
            knowledge_aspect="a",
            prompt_aspect="b",
            protocol="p",
            note="",
        )
        expected = pd.DataFrame({"method": list(values), "task": "generation", "planned": planned})
        inputs = report_input({label: {} for label in values}, scores=table, expected=expected, methods=roles)
        found = significant_marks(build_leaderboard(inputs), build_statistics(inputs))
        return {label: mark for (label, key), mark in found.items() if key == KEY}

    return make


def apart(level):
    return level + np.linspace(0, 0.01, CONCEPTS)


def alike(level):
    """Return scores that are better in half of the concepts and worse in the other half."""
    return level + 0.05 * np.tile([1, -1], CONCEPTS // 2)


def test_best_and_second_differ_from_all_below(marks):
    assert marks({"a": apart(0.5), "b": apart(0.7), "c": apart(0.3)}) == {"b": Mark.BEST, "a": Mark.SECOND}


def test_no_best_without_a_significant_difference_and_then_no_second(marks):
    assert marks({"a": apart(0.5), "b": alike(0.51), "c": apart(0.1)}) == {}


def test_no_second_if_it_does_not_differ_from_the_third(marks):
    assert marks({"a": apart(0.9), "b": alike(0.51), "c": apart(0.5)}) == {"a": Mark.BEST}


def test_of_two_methods_the_worse_one_is_no_second(marks):
    assert marks({"a": apart(0.9), "b": apart(0.5)}) == {"a": Mark.BEST}


def test_controls_and_incomplete_means_do_not_compete(marks):
    values = {"a": apart(0.5), "b": apart(0.3), "anchor": apart(0.9)}
    assert marks(values) == {"a": Mark.BEST}
    assert marks(values, planned=CONCEPTS + 1) == {}
