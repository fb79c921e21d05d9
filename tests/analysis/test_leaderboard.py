import numpy as np
import pandas as pd
import pytest

from knowcusbench.adaptation.method import Role
from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.analysis.resampling import interval
from knowcusbench.analysis.types import MetricHeading, RowKind
from knowcusbench.benchmark.types import Task
from knowcusbench.errors import RunError
from knowcusbench.metrics.bounds import SHARE
from knowcusbench.report import render_console

FOUR = {
    "naive_db": {"clip_i": 0.80, "clip_t": 0.29, "pickscore": 20.8},
    "mokus": {"clip_i": 0.76, "clip_t": 0.31, "pickscore": 21.3},
    "enc_ft": {"clip_i": 0.59, "clip_t": 0.20, "pickscore": 18.3},
    "base": {"clip_i": 0.99, "clip_t": 0.99, "pickscore": 99.0},
}


def marks(board, key):
    index = [column.key for column in board.columns].index(key)
    return {row.label: row.cells[index].mark for row in board.rows if row.cells[index].mark}


def test_columns_are_tasks_times_metrics_then_costs(report_input):
    expected = pd.DataFrame(
        {"method": "mokus", "task": ["generation", "reconstruction"], "planned": [1, 0]}, index=[0, 1]
    )
    one_task = build_leaderboard(report_input({"mokus": {}}, expected=expected))
    both = build_leaderboard(report_input({"mokus": {}}, expected=expected.assign(planned=1)))
    generation = ["generation_clip_i", "generation_clip_t", "generation_pickscore"]
    costs = ["train_seconds", "peak_memory_mib", "adapter_mib", "draw_seconds"]
    assert [column.key for column in one_task.columns] == [*generation, *costs]
    assert [column.key for column in both.columns] == ["reconstruction_clip_i", *generation, *costs]


def test_floors_stand_above_the_methods_and_ceilings_below(report_input):
    ranked = dict.fromkeys(("b,rank=8", "a"), Role.METHOD)
    methods = {"anchor": Role.CEILING, **ranked, "base": Role.FLOOR, "leak": Role.FLOOR}
    inputs = report_input(
        {label: {} for label in methods}, methods=methods, published=load_published(PublishedTable.MAIN)
    )
    rows = build_leaderboard(inputs).rows
    assert [row.label for row in rows] == [
        *("base", "leak", "b,rank=8", "a", "anchor", "real images", "Naive-DB", "Enc-FT", "MoKus"),
    ]
    assert [row.kind.value for row in rows] == [
        *("control", "control", "method", "method", "control", "ceiling", *["published"] * 3),
    ]


def test_best_and_second_are_given_among_methods_alone(report_input):
    board = build_leaderboard(report_input(FOUR, published=load_published(PublishedTable.MAIN)))
    assert marks(board, "generation_clip_i") == {"naive_db": "best", "mokus": "second"}
    assert marks(board, "generation_clip_t") == {"mokus": "best", "naive_db": "second"}
    assert marks(board, "generation_pickscore") == {"mokus": "best", "naive_db": "second"}


def test_costs_are_better_when_lower(report_input):
    inputs = report_input(FOUR)
    costs = inputs.costs.assign(seconds=[27.0, 6.0, 10.0, 0.0])
    assert marks(build_leaderboard(report_input(FOUR, costs=costs)), "train_seconds") == {
        "mokus": "best",
        "enc_ft": "second",
    }


def test_numbers_that_print_alike_share_their_mark(report_input):
    values = {"a": 0.7641, "b": 0.7639, "c": 0.7629, "d": 0.7631, "e": 0.1}
    board = build_leaderboard(report_input({label: {"clip_i": value} for label, value in values.items()}))
    assert marks(board, "generation_clip_i") == {"a": "best", "b": "best", "c": "second", "d": "second"}


def test_a_column_that_does_not_tell_methods_apart_has_no_marks(report_input):
    assert not marks(build_leaderboard(report_input({"only": {"clip_i": 0.5}})), "generation_clip_i")
    equal = {"a": {"clip_i": 0.5}, "b": {"clip_i": 0.5}}
    assert not marks(build_leaderboard(report_input(equal)), "generation_clip_i")


def test_an_incomplete_mean_is_shown_with_its_coverage_and_does_not_compete(report_input, cell_of):
    expected = pd.DataFrame(
        {"method": ["naive_db", "mokus", "enc_ft", "base"], "task": "generation", "planned": [2, 1, 1, 1]}
    )
    board = build_leaderboard(report_input(FOUR, expected=expected))
    cell = cell_of(board, "naive_db", "generation_clip_i")
    assert (cell.value, cell.n, cell.expected) == (0.80, 1, 2)
    assert marks(board, "generation_clip_i") == {"mokus": "best", "enc_ft": "second"}
    shown = render_console(board)
    assert "0.800†" in shown
    assert "† naive_db: 1 of 2 samples in Gen. CLIP-I, Gen. CLIP-T, Gen. PickScore." in shown


def test_what_is_missing_altogether_is_shown_as_such(report_input, cell_of):
    inputs = report_input({"mokus": {"clip_i": 0.5}})
    board = build_leaderboard(report_input({"mokus": {"clip_i": 0.5}}, costs=inputs.costs[:0], concepts=35))
    assert cell_of(board, "mokus", "generation_clip_t").value is None
    shown = " ".join(render_console(board).split())
    assert "† mokus: 0 of 1 samples in Gen. CLIP-T, Gen. PickScore; 0 of 35 concepts in Train (s)" in shown
    assert "† real images (ceiling): 1 of 35 concepts in Gen. CLIP-I." in shown


def test_the_ceiling_is_one_number_for_both_tasks_and_none_for_texts(report_input, row_of):
    expected = pd.DataFrame({"method": "mokus", "task": ["reconstruction", "generation"], "planned": 1})
    board = build_leaderboard(report_input({"mokus": {}}, expected=expected))
    values = [cell.value for cell in row_of(board, "real images").cells]
    assert values == [0.9, 0.9, None, None, None, None, None, None]


def test_published_numbers_stand_in_their_columns_with_their_source(report_input, cell_of, row_of):
    board = build_leaderboard(report_input(FOUR, published=load_published(PublishedTable.MAIN)))
    row = row_of(board, "MoKus")
    assert (row.kind, row.title) == (RowKind.PUBLISHED, "MoKus (published)")
    assert cell_of(board, "MoKus", "generation_clip_t").value == 0.305
    assert cell_of(board, "MoKus", "train_seconds").approximate
    assert cell_of(board, "MoKus", "adapter_mib").value is None
    assert "MoKus, arXiv 2603.12743, Table 1" in render_console(board)


def test_scores_of_two_protocols_are_refused(report_input):
    inputs = report_input(FOUR)
    scores = inputs.scores.copy()
    scores.loc[(scores["method"] == "mokus") & (scores["metric"] == "clip_t"), "protocol"] = "def"
    with pytest.raises(RunError, match=r"^clip_t: .*abc \(base, enc_ft, naive_db\); def \(mokus\)"):
        build_leaderboard(report_input(FOUR, scores=scores))


def test_more_scores_than_samples_are_refused(report_input):
    inputs = report_input({"mokus": {"clip_i": 0.5}})
    twice = pd.concat([inputs.scores, inputs.scores])
    with pytest.raises(RunError, match="mokus: 2 scores of clip_i for 1 planned samples of the generation task"):
        build_leaderboard(report_input({"mokus": {"clip_i": 0.5}}, scores=twice))


def test_notes_on_scores_are_counted(report_input):
    inputs = report_input(FOUR)
    notes = {("mokus", "clip_t"): "cut to 77 tokens", ("base", "clip_t"): "cut to 77 tokens"}
    notes[("enc_ft", "clip_t")] = "another"
    pairs = zip(inputs.scores["method"], inputs.scores["metric"], strict=True)
    scores = inputs.scores.assign(note=[notes.get(pair, "") for pair in pairs])
    board = build_leaderboard(report_input(FOUR, scores=scores))
    assert board.remarks == ("CLIP-T: scores with a note: base 1, enc_ft 1, mokus 1; most often “cut to 77 tokens”.",)


def test_scores_of_metrics_that_are_not_shown_are_left_out(report_input):
    board = build_leaderboard(report_input({"mokus": {"clip_i": 0.5, "dino": 0.7}}))
    assert "dino" not in {column.metric for column in board.columns}
    assert set(board.protocols) == {"clip_i"}


CLIP_T = MetricHeading(title="CLIP-T", tasks=frozenset(Task))
FIVE = {"cat": 0.5, "cup": 0.875, "dog": 0.75, "hat": 0.5, "owl": 0.625}


@pytest.fixture
def five(report_input, score_table):
    """Two methods and a control on five concepts; "cat" has two samples."""

    def make(**parts):
        values = [(concept, value + shift) for shift in (0, 0.25, -0.25) for concept, value in FIVE.items()]
        methods = [label for label in ("a", "b", "base") for _ in FIVE]
        rows = [(m, "generation", c, "clip_i", v) for m, (c, v) in zip(methods, values, strict=True)]
        rows += [(m, "generation", "cat", "clip_i", 1.0) for m in ("a", "b", "base")]
        expected = pd.DataFrame({"method": ["a", "b", "base"], "task": "generation", "planned": 6})
        defaults = {"scores": score_table(rows), "expected": expected, "concepts": 5}
        return report_input({"a": {}, "b": {}, "base": {}}, **(defaults | parts))

    return make


def test_methods_controls_and_real_images_have_intervals_over_concepts(five, cell_of):
    ceilings = pd.DataFrame({"metric": "clip_i", "concept": list(FIVE), "value": [0.8, 0.9, 1.0, 0.9, 0.8]})
    board = build_leaderboard(five(ceilings=ceilings))
    by_concept = np.array([0.75, 0.875, 0.75, 0.5, 0.625])
    cell = cell_of(board, "a", "generation_clip_i")
    assert cell.value == pytest.approx(0.7)
    assert (cell.low, cell.high) == pytest.approx(interval(by_concept, np.ones(5)))
    assert cell_of(board, "base", "generation_clip_i").low < 0.5 < cell_of(board, "base", "generation_clip_i").high
    ceiling = cell_of(board, "real images", "generation_clip_i")
    assert (ceiling.low, ceiling.high) == pytest.approx(interval(ceilings["value"].to_numpy(), np.ones(5)))
    assert cell_of(board, "a", "train_seconds").low is None


def test_intervals_stay_within_the_range_of_the_metric(five, cell_of):
    share = MetricHeading(title="Exact", tasks=frozenset(Task), bounds=SHARE)
    inputs = five(metrics={"clip_i": share})
    scores = inputs.scores.assign(value=(inputs.scores["value"] > 0.8).astype(float))
    scores.loc[scores["method"] == "base", "value"] = 0.0
    ceilings = pd.DataFrame({"metric": "clip_i", "concept": list(FIVE), "value": 1.0})
    floors = pd.DataFrame({"metric": "clip_i", "task": "generation", "concept": list(FIVE), "value": 0.0})
    board = build_leaderboard(five(metrics={"clip_i": share}, scores=scores, ceilings=ceilings, floors=floors))
    cells = [cell_of(board, label, "generation_clip_i") for label in ("a", "base", "shuffled", "real images")]
    assert all(0 <= cell.low < cell.high <= 1 for cell in cells)
    assert [cell.low for cell in cells[1:3]] == [0, 0]
    assert cells[3].high == 1


def test_a_micro_leaderboard_is_the_mean_over_samples(five, cell_of):
    board = build_leaderboard(five(reduction="micro"))
    cell = cell_of(board, "a", "generation_clip_i")
    assert cell.value == pytest.approx((sum(FIVE.values()) + 1) / 6)
    sums, counts = np.array([1.5, 0.875, 0.75, 0.5, 0.625]), np.array([2.0, 1, 1, 1, 1])
    assert (cell.low, cell.high) == pytest.approx(interval(sums, counts))
    assert "mean over all samples; higher is better" in render_console(board)


def test_a_concept_without_a_score_is_not_among_those_of_the_interval(five, cell_of):
    inputs = five()
    scores = inputs.scores.copy()
    scores.loc[scores["concept"] == "owl", "value"] = float("nan")
    cell = cell_of(build_leaderboard(five(scores=scores)), "a", "generation_clip_i")
    assert (cell.low, cell.high) == pytest.approx(interval(np.array([0.75, 0.875, 0.75, 0.5]), np.ones(4)))


def test_fewer_than_three_concepts_have_no_interval(report_input, cell_of):
    cell = cell_of(build_leaderboard(report_input(FOUR)), "mokus", "generation_clip_i")
    assert (cell.low, cell.high) == (None, None)


def test_the_best_is_the_lowest_where_lower_is_better(report_input):
    lower = MetricHeading(title="KID", tasks=frozenset(Task), higher_is_better=False)
    board = build_leaderboard(report_input(FOUR, metrics={"clip_i": lower, "clip_t": CLIP_T}))
    assert marks(board, "generation_clip_i") == {"enc_ft": "best", "mokus": "second"}
    assert marks(board, "generation_clip_t") == {"mokus": "best", "naive_db": "second"}
    assert "lower is better in KID, higher in all others" in " ".join(render_console(board).split())


def test_shuffled_pairs_are_one_row_over_all_methods(five, row_of):
    floors = pd.DataFrame(
        {
            "metric": "clip_i",
            "task": "generation",
            "concept": ["cat", "cat", "dog", "owl"],
            "value": [0.25, 0.75, 0.25, 0.0],
        }
    )
    board = build_leaderboard(five(floors=floors))
    row = row_of(board, "shuffled")
    assert (row.kind, row.title) == (RowKind.FLOOR, "shuffled (floor)")
    assert row.cells[0].value == 0.25  # (0.5 + 0.25 + 0) / 3
    assert row.cells[0].low < 0.25 < row.cells[0].high
    assert row.cells[0].complete
    assert [cell.value for cell in row.cells[1:]] == [None] * (len(board.columns) - 1)
    labels = [row.label for row in board.rows]
    assert labels.index("shuffled") == labels.index("real images") - 1
    assert row_of(build_leaderboard(five(floors=floors, reduction="micro")), "shuffled").cells[0].value == 0.3125
    assert "shuffled" not in [row.label for row in build_leaderboard(five()).rows]
