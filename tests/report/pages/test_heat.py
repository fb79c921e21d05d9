"""Colours behind numbers."""

import numpy as np
import pandas as pd

from knowcusbench.analysis.statistics import build_statistics
from knowcusbench.report.pages.heat import LEVELS, breakdowns, confusion_tables, levels


def test_colours_are_even_steps_from_the_lowest_to_the_highest():
    values = np.array([[0.0, 1.0, np.nan], [0.5, 0.124, 0.126]])
    assert levels(values).tolist() == [[0, LEVELS - 1, -1], [4, 0, 1]]
    assert levels(np.full((2, 2), 0.7)).tolist() == [[0, 0], [0, 0]]
    assert levels(np.full((1, 1), np.nan)).tolist() == [[-1]]


def test_a_breakdown_shows_the_means_of_the_statistics(pages):
    _, made, inputs = pages
    statistics = build_statistics(inputs)
    concepts = [concept.name for concept in made.gallery.concepts]
    scores = inputs.scores
    for column in statistics.columns:
        tables = breakdowns(statistics, column, list(made.gallery.methods), concepts)
        own = scores[(scores["metric"] == column.metric) & (scores["task"] == column.task)]
        # All reconstructions have one prompt: a table by prompt would be the leaderboard's line.
        by_prompt = ["prompt_aspect"] if column.task == "generation" else []
        assert [table.title for table in tables] == ["knowledge_aspect", *by_prompt, "concept"]
        assert [name for name, _ in tables[-1].rows] == concepts
        for name, cells in tables[-1].rows:
            for method, cell in zip(tables[-1].heads, cells, strict=True):
                mean = own[(own["concept"] == name) & (own["method"] == method)]["value"].mean()
                assert cell.text == f"{mean:.3f}"


def test_a_confusion_is_coloured_by_the_share_of_its_row():
    matrix = pd.DataFrame([[3, 1], [0, 0]], index=["a", "b"], columns=["a", "b"])
    (table,) = confusion_tables({"together": matrix})
    assert table.title == "together"
    assert [(name, [(cell.text, cell.level) for cell in cells]) for name, cells in table.rows] == [
        ("a", [("3", 6), ("1", 2)]),
        ("b", [("", None), ("", None)]),
    ]
