"""The table of effects and the confusion matrices, from hand-made measurements."""

import math
from collections.abc import Callable

import pandas as pd
import pytest

from knowcusbench.adaptation.method import Role
from knowcusbench.analysis.effects import EffectsInput, build_effects, summary
from knowcusbench.analysis.types import Cell, Leaderboard, Mark
from knowcusbench.report import render_console, write_effects
from knowcusbench.report.tables.effects import confusion_picture, render_confusion_csv

MeasureRow = tuple[str, str, str, str, float]
RetrievedRow = tuple[str, str, str, str]

KL = ("unrelated_question", "kl")
RANK = ("question", "first_rank")


def effects_input(
    measures: list[MeasureRow], retrieved: list[RetrievedRow] = (), concepts: tuple[str, ...] = ("cat", "dog")
) -> EffectsInput:
    labels = list(dict.fromkeys(row[0] for row in measures))
    return EffectsInput(
        run="night",
        methods={label: Role.FLOOR if label == "base" else Role.METHOD for label in labels},
        concepts=concepts,
        measures=pd.DataFrame(measures, columns=["method", "concept", "probe", "measure", "value"]).assign(knowledge=0),
        retrieved=pd.DataFrame(retrieved, columns=["method", "applied", "concept", "nearest"]).assign(knowledge=0),
        pictures=3,
        references=pd.DataFrame({"concept": ["cat", "dog"], "value": [1.0, math.nan]}),
        protocol="abc",
        remarks=("A remark.",),
    )


def test_means_are_of_texts_then_of_concepts(cell_of: Callable[[Leaderboard, str, str], Cell]) -> None:
    rows = [("mokus", "cat", *KL, 1.0), ("mokus", "cat", *KL, 3.0), ("mokus", "dog", *KL, 8.0)]
    cell = cell_of(build_effects(effects_input(rows)), "mokus", "unrelated_question_kl")
    assert (cell.value, cell.n, cell.complete) == (5.0, 2, True)


def test_ranks_are_averaged_as_logarithms(cell_of: Callable[[Leaderboard, str, str], Cell]) -> None:
    rows = [("mokus", "cat", *RANK, 1), ("mokus", "cat", *RANK, 100), ("mokus", "dog", *RANK, 1000)]
    cell = cell_of(build_effects(effects_input(rows)), "mokus", "question_first_rank")
    assert cell.value == pytest.approx(100)


def test_a_concept_that_was_not_measured_is_missing_but_a_probe_that_no_concept_has_is_not(
    cell_of: Callable[[Leaderboard, str, str], Cell],
) -> None:
    rows = [("mokus", "cat", *KL, 1.0), ("enc_ft", "cat", *KL, 1.0), ("enc_ft", "dog", *KL, 2.0)]
    board = build_effects(effects_input(rows))
    assert not cell_of(board, "mokus", "unrelated_question_kl").complete
    assert cell_of(board, "enc_ft", "unrelated_question_kl").complete
    rephrased = cell_of(board, "enc_ft", "rephrasing_first_probability")
    assert rephrased.value is None
    assert rephrased.complete


def test_a_probe_that_a_method_leaves_nothing_of_is_not_missing(
    cell_of: Callable[[Leaderboard, str, str], Cell],
) -> None:
    """All other concepts' questions were taught."""
    other = ("other_concept", "kl")
    rows = [("scope=batch", concept, *KL, 1.0) for concept in ("cat", "dog")]
    rows += [("scope=concept", concept, *other, 1.0) for concept in ("cat", "dog")]
    board = build_effects(effects_input(rows))
    assert cell_of(board, "scope=batch", "other_concept_kl").complete
    assert cell_of(board, "scope=concept", "other_concept_kl").value == 1.0


def test_small_divergences_and_ranks_are_best_and_knowledge_embeddings_have_no_best(
    cell_of: Callable[[Leaderboard, str, str], Cell],
) -> None:
    phrase = ("phrase", "cosine")
    rows = [
        (label, "cat", *probe, value)
        for label, value in (("mokus", 1.0), ("enc_ft", 2.0), ("base", 0.0))
        for probe in (KL, RANK, phrase)
        if probe != RANK or value
    ]
    board = build_effects(effects_input(rows, concepts=("cat",)))
    for key in ("unrelated_question_kl", "question_first_rank"):
        assert cell_of(board, "mokus", key).mark is Mark.BEST
        assert cell_of(board, "base", key).mark is None
    assert {cell_of(board, label, "phrase_cosine").mark for label in ("mokus", "enc_ft", "base")} == {None}


RETRIEVED = [
    ("mokus", "separately", "cat", "cat"),
    ("mokus", "separately", "cat", "cat"),
    ("mokus", "separately", "dog", "cat"),
    ("mokus", "together", "cat", "dog"),
    ("mokus", "together", "dog", "dog"),
]


def test_retrieval_is_read_off_the_confusion_matrix(cell_of: Callable[[Leaderboard, str, str], Cell]) -> None:
    board = build_effects(effects_input([("mokus", "cat", *KL, 1.0), ("base", "cat", *KL, 0.0)], RETRIEVED))
    alone = cell_of(board, "mokus", "retrieval_separately")
    together = cell_of(board, "mokus", "retrieval_together")
    assert (alone.value, alone.n, alone.complete) == (0.5, 3, True)
    assert (together.value, together.n, together.complete) == (0.5, 2, False)
    assert cell_of(board, "base", "retrieval_together") == Cell()
    assert cell_of(board, "real images", "retrieval_together").value == 1.0
    assert "Retrieval by chance: 0.500 (2 concepts)." in board.remarks


def test_the_files_of_the_effects(tmp_path) -> None:
    inputs = effects_input([("mokus", "cat", *KL, 0.125), ("base", "cat", *KL, 0.0)], RETRIEVED)
    board = write_effects(tmp_path, inputs)
    names = {f"effects.{suffix}" for suffix in ("csv", "json", "md", "tex")} | {
        f"confusion-mokus.{suffix}" for suffix in ("csv", "png")
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "confusion-mokus.csv").read_text().splitlines() == [
        "applied,concept,cat,dog",
        "separately,cat,2,0",
        "separately,dog,1,0",
        "together,cat,0,1",
        "together,dog,0,1",
    ]
    csv = pd.read_csv(tmp_path / "effects.csv").set_index("label")
    assert csv.loc["mokus", "unrelated_question_kl"] == 0.125
    text = (tmp_path / "effects.md").read_text()
    assert text.startswith("# Effects of night")
    assert "A remark." in text
    shown = render_console(summary(board))
    assert "0.125" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_the_picture_is_dark_where_a_concepts_pictures_went() -> None:
    matrix = pd.DataFrame([[0, 4], [1, 1]], index=["cat", "dog"], columns=["cat", "dog"])
    picture = confusion_picture({"separately": matrix})
    whole = confusion_picture({"separately": matrix, "together": matrix})
    assert whole.width > picture.width
    left = picture.width - 2 * 44 - 8
    corners = {
        (row, column): picture.getpixel((left + column * 44 + 4, 29 + row * 44 + 4))[0]
        for row in (0, 1)
        for column in (0, 1)
    }
    assert corners == {(0, 0): 255, (0, 1): 0, (1, 0): 128, (1, 1): 128}
    assert render_confusion_csv({"together": matrix}).splitlines()[1] == "together,cat,0,4"
