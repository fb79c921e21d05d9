import time
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from knowcusbench.analysis.columns import COSTS
from knowcusbench.analysis.reduction import ceiling_means, concept_means, cost_means, macro_means, micro_means

KEY = ("mokus", "generation", "clip_t")


def test_every_concept_counts_once_however_many_samples_it_has(score_table):
    rows = [("mokus", "generation", "cat", "clip_t", value) for value in (0.0, 0.25, 0.5, 0.25)]
    rows += [("mokus", "generation", "dog", "clip_t", 1.0)]
    mean = macro_means(concept_means(score_table(rows)))[KEY]
    assert mean.value == 0.625  # (0.25 + 1) / 2; the mean over samples would be 0.4
    assert mean.n == 5


def test_every_sample_counts_once_in_the_micro_mean(score_table):
    rows = [("mokus", "generation", "cat", "clip_t", value) for value in (0.0, 0.25, 0.5, float("nan"), 0.25)]
    rows += [("mokus", "generation", "dog", "clip_t", 1.0)]
    assert micro_means(concept_means(score_table(rows)))[KEY] == (0.4, 5)


def test_methods_tasks_and_metrics_do_not_mix(score_table):
    rows = [
        ("mokus", "generation", "cat", "clip_t", 0.25),
        ("mokus", "generation", "cat", "clip_i", 0.5),
        ("mokus", "reconstruction", "cat", "clip_i", 0.75),
        ("base", "generation", "cat", "clip_t", 1.0),
    ]
    means = macro_means(concept_means(score_table(rows)))
    assert means == {(method, task, metric): (value, 1) for method, task, _, metric, value in rows}


def test_a_score_that_is_nan_is_a_missing_one(score_table):
    rows = [("mokus", "generation", "cat", "clip_t", value) for value in (0.5, float("nan"))]
    rows += [("mokus", "generation", "dog", "clip_t", float("nan"))]
    assert macro_means(concept_means(score_table(rows)))[KEY] == (0.5, 1)


def test_no_scores_have_no_means(score_table):
    assert macro_means(concept_means(score_table([]))) == {}


def test_the_order_of_rows_does_not_change_the_last_bit(score_table):
    generator = np.random.default_rng(0)
    values = generator.normal(size=1000) * 10 ** generator.uniform(-8, 8, 1000)
    rows = [("mokus", "generation", f"c{n % 7}", "clip_t", value) for n, value in enumerate(values)]
    table = score_table(rows)
    as_categories = table.astype({"concept": pd.CategoricalDtype([f"c{n}" for n in (3, 1, 0, 2, 6, 5, 4)])})
    expected = macro_means(concept_means(table))
    for seed in range(20):
        assert macro_means(concept_means(table.sample(frac=1, random_state=seed))) == expected
        assert macro_means(concept_means(as_categories.sample(frac=1, random_state=seed))) == expected


def test_other_methods_do_not_change_the_last_bit(score_table):
    values = (2 / 3, 1.0, 0.8, 0.95, 0.88, 1.0, 0.8833333333333333, 1.0)
    rows = {
        method: [(method, "generation", f"c{n}", "clip_t", value) for n, value in enumerate(values)]
        for method in ("mokus", "naive_db")
    }
    for table in (rows["mokus"], [*rows["naive_db"], *rows["mokus"]]):
        mean = macro_means(concept_means(score_table(table)))["mokus", "generation", "clip_t"]
        assert mean.value == float(sum(map(Fraction, values)) / 8)


def test_costs_are_means_but_for_the_peak():
    costs = pd.DataFrame(
        {
            "method": ["mokus", "mokus"],
            "concept": ["cat", "dog"],
            "seconds": [10.0, 20.0],
            "peak_memory_bytes": [2**30, 3 * 2**30],
            "adapter_bytes": [2**20, 2 * 2**20],
            "image_seconds": [0.5, float("nan")],
        }
    )
    found = {cost.column.key: cost_means(costs, cost)["mokus"] for cost in COSTS}
    assert found == {
        "train_seconds": (15.0, 2),
        "peak_memory_mib": (3072.0, 2),
        "adapter_mib": (1.5, 2),
        "draw_seconds": (0.5, 1),
    }


def test_a_ceiling_is_the_mean_over_the_concepts_that_have_one():
    ceilings = pd.DataFrame(
        {
            "metric": ["clip_i", "clip_i", "dino"],
            "concept": ["cat", "dog", "cat"],
            "value": [0.75, 0.25, float("nan")],
        }
    )
    means = ceiling_means(ceilings)
    assert means["clip_i"] == (0.5, 2)
    assert means["dino"].n == 0


def test_half_a_million_scores_reduce_in_seconds_to_what_numpy_gives():
    generator = np.random.default_rng(0)
    rows = 500_000
    method, concept = generator.integers(0, 3, rows), generator.integers(0, 35, rows)
    value = generator.uniform(size=rows)
    table = pd.DataFrame(
        {
            "method": np.array(["base", "mokus", "naive_db"])[method],
            "task": "generation",
            "concept": np.array([f"concept {n}" for n in range(35)])[concept],
            "metric": "clip_t",
            "value": value,
        }
    )
    started = time.process_time()
    means = macro_means(concept_means(table))
    assert time.process_time() - started < 5
    for number, label in enumerate(("base", "mokus", "naive_db")):
        cells = method * 35 + concept
        sums, counts = np.bincount(cells, value, 105), np.bincount(cells, minlength=105)
        expected = (sums / counts)[number * 35 : number * 35 + 35].mean()
        assert means[label, "generation", "clip_t"].value == pytest.approx(expected, rel=1e-12)
