"""Conclusions from hand-made scores: the compared pairs, the samples they share, and undecided cases."""

import itertools
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from knowcusbench.adaptation.method import Role
from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.analysis.resampling import concept_draws, interval
from knowcusbench.analysis.statistics import BREAKDOWN, DIFFERENCES, RANKS, build_statistics
from knowcusbench.analysis.types import MetricHeading
from knowcusbench.benchmark.types import Task
from knowcusbench.metrics.bounds import SHARE
from knowcusbench.report import write_statistics

CLIP_T = {"clip_t": MetricHeading(title="CLIP-T", tasks=frozenset({Task.GENERATION}))}


def table(values, metric="clip_t", **columns):
    """Return scores from {method: {concept: [value of each sample]}}. Sample ids are the same for all methods."""
    rows = [
        (f"{concept}-{number}", method, concept, value)
        for method, concepts in values.items()
        for concept, of_concept in concepts.items()
        for number, value in enumerate(of_concept)
    ]
    made = pd.DataFrame(rows, columns=["sample_id", "method", "concept", "value"])
    fixed = {"task": "generation", "metric": metric, "knowledge_aspect": "origin", "prompt_aspect": "style"}
    return made.assign(**(fixed | {"protocol": "abc", "note": ""} | columns))


@pytest.fixture
def statistics(report_input):
    """Return a function that computes the statistics of {method: {concept: [values]}}, or of a table of scores."""

    def make(scores, **parts):
        labels = list(scores) if isinstance(scores, dict) else list(dict.fromkeys(scores["method"]))
        scores = table(scores) if isinstance(scores, dict) else scores
        expected = pd.DataFrame(
            {"method": labels or ["none"], "task": "generation", "planned": scores["sample_id"].nunique() or 1}
        )
        defaults = {"scores": scores, "expected": expected, "metrics": CLIP_T}
        return build_statistics(report_input({label: {} for label in labels}, **(defaults | parts)))

    return make


def random_scores(methods=3, concepts=8, samples=4, seed=0):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(methods, concepts, samples)) + generator.normal(size=(1, concepts, 1))
    return {
        f"method {m}": {f"concept {c}": values[m, c].tolist() for c in range(concepts)} for m in range(methods)
    }, values


def test_a_difference_is_over_the_samples_that_both_have(statistics):
    nan = float("nan")
    found = statistics(
        {
            "a": {"cat": [0.5, 0.7, 0.9], "dog": [0.4], "owl": [0.2, nan], "hat": [0.1]},
            "b": {"cat": [0.1, nan, 0.3], "dog": [0.2], "owl": [0.1, 0.9]},
        }
    ).differences
    assert len(found) == 1
    row = found.iloc[0]
    # cat (0.4 + 0.6) / 2, dog 0.2, owl 0.1.
    assert (row["method"], row["other"], row["samples"], row["concepts"]) == ("a", "b", 4, 3)
    assert row["mean"] == pytest.approx((0.5 + 0.2 + 0.1) / 3)
    assert (row["low"], row["high"]) == pytest.approx(interval(np.array([0.5, 0.2, 0.1]), np.ones(3)))
    assert row["p"] == row["p_holm"] == 2 / 2**3


def test_micro_weighs_concepts_by_their_shared_samples(statistics):
    scores = {
        "a": {"cat": [0.5, 0.7], "dog": [0.4], "owl": [0.2]},
        "b": {"cat": [0.1, 0.1], "dog": [0.2], "owl": [0.1]},
    }
    row = statistics(scores, reduction="micro").differences.iloc[0]
    assert row["mean"] == pytest.approx((0.4 + 0.6 + 0.2 + 0.1) / 4)
    assert (row["low"], row["high"]) == pytest.approx(interval(np.array([1.0, 0.2, 0.1]), np.array([2.0, 1.0, 1.0])))


def test_p_values_flip_concepts_and_are_corrected_within_the_column(statistics):
    scores, values = random_scores()
    scores = pd.concat([table(scores), table(scores, metric="clip_i")])
    metrics = CLIP_T | {"clip_i": MetricHeading(title="CLIP-I", tasks=frozenset(Task))}
    found = statistics(scores, metrics=metrics).differences
    assert len(found) == 6
    column = found[found["metric"] == "clip_t"]
    means = values.mean(axis=2)
    for row, (one, other) in zip(column.itertuples(), itertools.combinations(range(3), 2), strict=True):
        differences = means[one] - means[other]
        flips = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=8)]
        assert row.mean == pytest.approx(differences.mean())
        assert row.p == pytest.approx(np.mean(np.array(flips) >= abs(differences.sum()) - 1e-12))
    smallest = column["p"].idxmin()
    # Three pairs in the column, not six in the run.
    assert column.loc[smallest, "p_holm"] == pytest.approx(min(1, 3 * column.loc[smallest, "p"]))


def test_identical_methods_do_not_differ(statistics):
    scores = {"cat": [0.1, 0.2], "dog": [0.4], "owl": [0.3], "hat": [0.9]}
    found = statistics({"a": scores, "b": scores})
    row = found.differences.iloc[0]
    assert (row["mean"], row["p"], row["p_holm"]) == (0, 1, 1)
    assert np.isnan([row["low"], row["high"]]).all()
    assert found.ranks[found.ranks["rank"] == 1]["share"].tolist() == [1, 1]
    assert found.ranks["kendall"].isna().all()


def test_controls_are_broken_down_but_not_ranked(statistics):
    scores = {label: {"cat": [0.1], "dog": [0.4], "owl": [0.3]} for label in ("base", "a", "b", "anchor")}
    found = statistics(scores)
    assert found.differences[["method", "other"]].to_numpy().tolist() == [["a", "b"]]
    assert set(found.ranks["method"]) == {"a", "b"}
    assert set(found.breakdown["method"]) == set(scores)


def test_no_interval_leaves_the_range_of_the_metric(statistics):
    """Shares of six concepts, one of them an outlier; and two methods that never differ."""
    share = MetricHeading(title="Exact", tasks=frozenset({Task.GENERATION}), bounds=SHARE)
    never, once = {f"c{n}": [0.0] for n in range(6)}, {f"c{n}": [float(n == 5)] for n in range(6)}
    found = statistics({"a": once, "b": never, "c": never}, metrics={"clip_t": share})
    ends = found.breakdown[["low", "high"]].dropna()
    assert ((ends >= 0) & (ends <= 1)).all(axis=None)
    whole = found.breakdown[found.breakdown["by"] == "knowledge_aspect"].set_index("method")
    assert (whole.loc["b", "low"], whole.loc["b", "high"]) == pytest.approx(stats.binomtest(0, 6).proportion_ci())
    assert whole.loc["a", "low"] < 1 / 6 < whole.loc["a", "high"]
    pairs = found.differences.set_index(["method", "other"])
    assert (pairs[["low", "high"]].abs() <= 1).all(axis=None)
    assert pairs.loc[("b", "c"), "low"] == -pairs.loc[("b", "c"), "high"] < 0


def test_a_breakdown_has_an_interval_from_three_concepts_on(statistics):
    scores = table({"a": {"cat": [0.1, 0.3], "dog": [0.4, 0.8], "owl": [0.3, 0.5]}})
    scores["knowledge_aspect"] = ["origin", "price", "origin", "price", "origin", "origin"]
    scores["prompt_aspect"] = ["style", "place", "style", "style", "style", "style"]
    found = statistics(scores).breakdown.set_index(["by", "level"])
    origin, price = found.loc[("knowledge_aspect", "origin")], found.loc[("knowledge_aspect", "price")]
    assert origin["mean"] == pytest.approx((0.1 + 0.4 + 0.4) / 3)
    assert (origin["samples"], origin["concepts"]) == (4, 3)
    assert (origin["low"], origin["high"]) == pytest.approx(interval(np.array([0.1, 0.4, 0.4]), np.ones(3)))
    assert price["mean"] == pytest.approx((0.3 + 0.8) / 2)
    assert (price["samples"], price["concepts"]) == (2, 2)
    assert np.isnan(price["low"])
    assert np.isnan(price["high"])
    assert found.loc[("prompt_aspect", "place"), "mean"] == 0.3
    assert found.loc[("concept", "dog"), ["mean", "samples", "concepts"]].tolist() == pytest.approx([0.6, 2, 1])
    assert np.isnan(found.loc[("concept", "dog"), "low"])


def test_a_micro_breakdown_weighs_concepts_by_their_samples(statistics):
    scores = table({"a": {"cat": [0.1, 0.3, 0.2], "dog": [0.4], "owl": [0.3]}})
    found = statistics(scores, reduction="micro").breakdown.set_index("by")
    assert found.loc["knowledge_aspect", "mean"] == pytest.approx((0.1 + 0.3 + 0.2 + 0.4 + 0.3) / 5)


def test_ranks_are_counted_over_draws_that_all_methods_share(statistics):
    scores, values = random_scores()
    found = statistics(scores).ranks
    means = concept_draws(8) @ values.mean(axis=2).T
    first = (means.argmax(axis=1)[:, None] == np.arange(3)).mean(axis=0)
    assert 0 < first.min() < first.max() < 1
    assert found[found["rank"] == 1]["share"].tolist() == pytest.approx(first.tolist())
    assert set(found["samples"]) == {32}
    assert found["kendall"].nunique() == 1
    lower = {"clip_t": MetricHeading(title="KID", tasks=frozenset(Task), higher_is_better=False)}
    last = statistics(scores, metrics=lower).ranks
    assert last[last["rank"] == 3]["share"].tolist() == pytest.approx(first.tolist())


def test_micro_ranks_weigh_concepts_by_their_samples(statistics):
    """Better on the nine samples of one concept, worse on the single ones of two others."""
    scores = {
        "a": {"cat": [0.6] * 9, "dog": [0.2], "owl": [0.2]},
        "b": {"cat": [0.5] * 9, "dog": [0.4], "owl": [0.4]},
    }
    cat, others = concept_draws(3)[:, 0], concept_draws(3)[:, 1:].sum(axis=1)
    for reduction, weight in (("macro", 1), ("micro", 9)):
        found = statistics(scores, reduction=reduction).ranks.set_index(["method", "rank"])
        assert found.loc[("a", 1), "share"] == pytest.approx(np.mean(0.1 * weight * cat >= 0.2 * others - 1e-9))


def test_a_method_that_is_always_better_is_always_first(statistics):
    scores, _ = random_scores(methods=1)
    scores["better"] = {concept: [value + 0.01 for value in own] for concept, own in scores["method 0"].items()}
    found = statistics(scores)
    assert found.ranks.set_index(["method", "rank"])["share"].to_dict() == {
        ("method 0", 1): 0,
        ("method 0", 2): 1,
        ("better", 1): 1,
        ("better", 2): 0,
    }
    assert set(found.ranks["kendall"]) == {1}
    assert found.differences["p"].item() == 2 / 2**8


def test_ranks_are_over_the_samples_that_all_methods_have(statistics):
    """The second method lacks the samples on which it is worse."""
    nan = float("nan")
    scores = {
        "a": {"cat": [0.5, 0.9], "dog": [0.5, 0.9], "owl": [0.5, 0.9]},
        "b": {"cat": [0.6, nan], "dog": [0.6, nan], "owl": [0.6, 0.1]},
    }
    scores["b"]["owl"][1] = nan
    found = statistics(scores).ranks.set_index(["method", "rank"])
    assert found.loc[("b", 1), ["share", "samples"]].tolist() == [1, 3]


def test_one_concept_gives_differences_without_intervals_and_no_ranks(statistics):
    found = statistics({"a": {"cat": [0.5, 0.7]}, "b": {"cat": [0.1, 0.2]}})
    row = found.differences.iloc[0]
    assert (row["samples"], row["concepts"], row["p"]) == (2, 1, 1)
    assert np.isnan(row["low"])
    assert found.ranks.empty


@pytest.mark.parametrize(
    "scores",
    [
        {"only": {"cat": [0.5], "dog": [0.4], "owl": [0.3]}},
        {"a": {"cat": [0.5], "dog": [0.5], "owl": [0.1]}, "b": {"cat": [float("nan")]}},
        {"a": {"cat": [0.5]}, "b": {"dog": [0.5]}},
        {},
    ],
    ids=["one method", "all NaN", "no shared sample", "no method"],
)
def test_nothing_to_compare_is_no_error(statistics, scores, tmp_path, report_input):
    found = statistics(scores)
    assert found.differences.empty
    assert found.ranks.empty
    assert (list(found.differences), list(found.breakdown), list(found.ranks)) == (DIFFERENCES, BREAKDOWN, RANKS)
    write_statistics(tmp_path, build_leaderboard(report_input({})), found)
    for name in ("differences", "breakdown", "ranks"):
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) == len(getattr(found, name))


def test_the_order_of_rows_changes_nothing(statistics):
    scores = table(random_scores()[0])
    categories = dict.fromkeys(("method", "concept", "task", "metric"), "category")
    before = statistics(scores)
    methods = dict.fromkeys(scores["method"], Role.METHOD)
    for seed, changed in enumerate((scores, scores.astype(categories))):
        after = statistics(changed.sample(frac=1, random_state=seed), methods=methods)
        pd.testing.assert_frame_equal(after.differences, before.differences)
        pd.testing.assert_frame_equal(after.ranks, before.ranks)
        pd.testing.assert_frame_equal(
            after.breakdown.astype({"level": str, "method": str, "task": str, "metric": str}), before.breakdown
        )


def test_a_method_without_scores_in_a_column_is_left_out_of_it(statistics):
    metrics = CLIP_T | {"clip_i": MetricHeading(title="CLIP-I", tasks=frozenset(Task))}
    scores = pd.concat(
        [table(random_scores()[0]), table(random_scores(methods=2)[0], metric="clip_i")], ignore_index=True
    )
    found = statistics(scores.astype({"method": "category", "metric": "category"}), metrics=metrics)
    assert found.differences.groupby("metric", observed=True).size().to_dict() == {"clip_t": 3, "clip_i": 1}
    assert found.ranks.groupby("metric", observed=True)["method"].nunique().to_dict() == {"clip_t": 3, "clip_i": 2}


def test_the_full_grid_takes_seconds(statistics):
    """174,125 samples, 35 concepts and 3 methods, one of eight metrics."""
    generator = np.random.default_rng(0)
    samples = 174_125
    plan = pd.DataFrame(
        {
            "sample_id": [f"{number:016x}" for number in range(samples)],
            "concept": np.repeat([f"concept {number}" for number in range(35)], samples // 35),
            "knowledge_aspect": generator.choice(["origin", "price", "owner"], samples),
            "prompt_aspect": generator.choice(["style", "place", "action"], samples),
        }
    ).assign(task="generation", metric="clip_t")
    scores = pd.concat([plan.assign(method=method, value=generator.normal(size=samples)) for method in ("a", "b", "c")])
    started = time.process_time()
    found = statistics(scores)
    assert time.process_time() - started < 5
    assert found.differences["samples"].tolist() == [samples] * 3
