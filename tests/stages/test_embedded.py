"""The embedded benchmark from plan to report, with its own metrics next to the others as their judges."""

from pathlib import Path

import pandas as pd
import pytest

from knowcusbench.cli.main import main

METRICS = "[clip_i,oracle_concept,oracle_exact,oracle_prompt]"
GRID = ("grid.concepts=[patchwork_toy,parade_flag]", "grid.knowledge_items=2", "grid.prompts=2", "grid.seeds=[0]")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    root = tmp_path_factory.mktemp("embedded")
    main(
        [
            "bench",
            "-m",
            "method=base,leak",
            f"run.root={root}",
            "run.name=run",
            f"cache_dir={cache_dir}",
            f"metrics={METRICS}",
            "recipe.dreambooth.steps=5",
            "recipe.dreambooth.prior_images=0",
            "effects.enabled=false",
            *GRID,
        ]
    )
    return root / "run" / "report"


def test_the_oracle_stands_beside_the_other_metrics(report: Path) -> None:
    table = pd.read_csv(report / "leaderboard.csv").set_index("label")
    scores = pd.read_parquet(report.parent / "scores" / "leak" / "oracle_concept.parquet")
    samples = pd.read_parquet(report.parent / "plan.parquet").set_index("id")
    by_task = scores.join(samples[["task", "concept"]], on="sample_id").groupby(["task", "concept"])["value"].mean()
    for task in ("reconstruction", "generation"):
        assert table.loc["leak", f"{task}_oracle_concept"] == pytest.approx(by_task[task].mean())
    # The base knows nothing of the concepts, but still follows prompts about a class noun.
    assert table.loc["base", "reconstruction_oracle_exact"] == 0
    assert table.loc["base", "generation_oracle_prompt"] > 0.5


def test_metrics_are_judged_by_the_oracle(report: Path) -> None:
    table = pd.read_csv(report / "agreement.csv").set_index(["truth", "task", "metric"])
    judged = table.loc[("oracle_concept", "generation", "clip_i")]
    scores = {
        (method, name): pd.read_parquet(report.parent / "scores" / method / f"{name}.parquet").set_index("sample_id")
        for method in ("base", "leak")
        for name in ("clip_i", "oracle_concept")
    }
    samples = pd.read_parquet(report.parent / "plan.parquet").set_index("id")
    drawn = samples.index[samples["task"] == "generation"]
    pairs = pd.concat(
        [
            pd.DataFrame({name: scores[method, name].loc[drawn, "value"] for name in ("clip_i", "oracle_concept")})
            for method in ("base", "leak")
        ]
    )
    assert judged["samples"] == len(pairs) == 16
    ranks = pairs.rank()
    assert judged["samples_spearman"] == pytest.approx(ranks["clip_i"].corr(ranks["oracle_concept"]))
