"""Ablations from hand-made samples: reduction, tables, and the points of the figure."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from knowcusbench.adaptation.method import Role
from knowcusbench.analysis.ablation import Ablation, AblationInput, Setting, build_ablation
from knowcusbench.analysis.effects import EffectsInput
from knowcusbench.analysis.types import MetricHeading
from knowcusbench.benchmark.types import Task
from knowcusbench.report.figures.ablation import ablation_figure, write_ablation_figure
from knowcusbench.report.tables.ablation import (
    reading,
    render_ablation_csv,
    render_ablation_latex,
    render_ablation_markdown,
    write_ablation,
)

METRICS = {
    "clip_i": MetricHeading(title="CLIP-I", tasks=frozenset(Task)),
    "pickscore": MetricHeading(title="PickScore", tasks=frozenset({Task.GENERATION}), decimals=2),
}
CAT, DOG = "cat", "dog"
SCORES = [
    # method, task, concept, metric, value, knowledge
    ("items=1", "reconstruction", CAT, "clip_i", 0.2, 0),
    ("items=1", "reconstruction", CAT, "clip_i", 0.4, 0),
    ("items=1", "reconstruction", CAT, "clip_i", 9.0, 1),  # not taught
    ("items=1", "reconstruction", DOG, "clip_i", 0.7, 0),
    ("items=10", "reconstruction", CAT, "clip_i", 0.1, 0),
    ("items=10", "reconstruction", CAT, "clip_i", 0.5, 1),
    ("items=10", "reconstruction", DOG, "clip_i", 0.9, 0),
    ("items=10", "generation", CAT, "pickscore", -1.0, 0),
    ("base", "reconstruction", CAT, "clip_i", 0.25, 1),
]
COSTS = [("items=1", CAT, 2.0), ("items=1", DOG, 4.0), ("items=10", CAT, 6.0), ("base", CAT, 0.0)]


def made(scale: str = "log", **changes: object) -> Ablation:
    parts: dict[str, object] = {
        "name": "items",
        "title": "facts & edits",
        "scale": scale,
        "settings": [
            Setting(label="items=1", value=1, taught=1),
            Setting(label="items=10", value=10, taught=10),
        ],
        "controls": ["base"],
        "metrics": METRICS,
        "scores": pd.DataFrame(SCORES, columns=["method", "task", "concept", "metric", "value", "knowledge"]),
        "effects": None,
        "costs": pd.DataFrame(COSTS, columns=["method", "concept", "seconds"]).assign(
            peak_memory_bytes=2**30,
            adapter_bytes=2**19,
            image_seconds=0.5,
        ),
    }
    return build_ablation(AblationInput(**{**parts, **changes}))  # type: ignore[arg-type]


def summary(ablation: Ablation, label: str, column: str) -> pd.Series:
    rows = ablation.summary.set_index(["label", "column"])
    return rows.loc[(label, column)]


def test_samples_are_reduced_to_concepts_and_concepts_to_mean_and_deviation() -> None:
    ablation = made()
    one = summary(ablation, "items=1", "reconstruction_clip_i")
    # cat 0.3, dog 0.7; the standard deviation uses n - 1.
    assert one["mean"] == pytest.approx(0.5)
    assert one["deviation"] == pytest.approx(0.2 * 2**0.5)
    assert one["concepts"] == 2
    assert summary(ablation, "items=10", "reconstruction_clip_i")["mean"] == pytest.approx(0.6)
    assert summary(ablation, "items=1", "train_seconds")["mean"] == 3.0
    assert summary(ablation, "items=1", "adapter_mib")["mean"] == 0.5
    assert np.isnan(summary(ablation, "base", "reconstruction_clip_i")["deviation"])
    assert summary(ablation, "base", "reconstruction_clip_i")["mean"] == 0.25


def test_effects_are_columns_and_count_what_was_taught() -> None:
    probabilities = [
        ("items=1", CAT, "question", "first_probability", 0.9, 0),
        ("items=1", CAT, "question", "first_probability", 0.1, 1),  # not taught
        ("items=10", CAT, "question", "first_probability", 0.8, 0),
        ("items=10", CAT, "question", "first_probability", 0.6, 1),
        ("items=1", CAT, "unrelated_question", "kl", 0.2, np.nan),
        ("items=1", CAT, "question", "first_rank", 3, 0),  # not shown here
    ]
    retrieved = [("items=10", "together", CAT, 0, CAT), ("items=10", "together", CAT, 1, DOG)]
    effects = EffectsInput(
        run="night",
        methods={"items=1": Role.METHOD, "items=10": Role.METHOD},
        concepts=(CAT, DOG),
        measures=pd.DataFrame(probabilities, columns=["method", "concept", "probe", "measure", "value", "knowledge"]),
        retrieved=pd.DataFrame(retrieved, columns=["method", "applied", "concept", "knowledge", "nearest"]),
        pictures=2,
        references=pd.DataFrame(columns=["concept", "value"]),
        protocol="abc",
    )
    ablation = made(effects=effects)
    assert summary(ablation, "items=1", "question_first_probability")["mean"] == 0.9
    assert summary(ablation, "items=10", "question_first_probability")["mean"] == pytest.approx(0.7)
    assert summary(ablation, "items=1", "unrelated_question_kl")["mean"] == 0.2
    assert summary(ablation, "items=10", "retrieval_together")["mean"] == 0.5
    assert "question_first_rank" not in set(ablation.summary["column"])
    assert "Question P(first)" in render_ablation_markdown(ablation)


def test_the_order_of_the_rows_makes_no_difference() -> None:
    shuffled = pd.DataFrame(SCORES[::-1], columns=["method", "task", "concept", "metric", "value", "knowledge"])
    assert render_ablation_csv(made(scores=shuffled)) == render_ablation_csv(made())


def test_the_csv_keeps_every_concept() -> None:
    table = pd.read_csv(io.StringIO(render_ablation_csv(made())))
    cat = table[(table["label"] == "items=1") & (table["concept"] == CAT)].set_index("column")
    assert cat.loc["reconstruction_clip_i", ["value", "n"]].tolist() == pytest.approx([0.3, 2])
    assert cat.loc["train_seconds", "value"] == 2.0
    assert set(table["setting"].dropna()) == {1, 10}
    assert table[table["label"] == "base"]["setting"].isna().all()
    assert len(table) == 5 + 1 + 4 * 4


def test_the_tables_have_a_row_per_value_in_order_and_the_controls_below() -> None:
    rows = [line.split(" | ") for line in render_ablation_markdown(made()).splitlines() if line.startswith("| ")]
    heads, _, one, ten, base = rows
    assert heads[:3] == ["| facts \\& edits", "Recon. CLIP-I", "Gen. CLIP-I"]
    assert one[:4] == ["| 1", "0.500 ± 0.283", "–", "–"]
    assert ten[:4] == ["| 10", "0.600 ± 0.424", "–", "-1.00"]
    assert base[:2] == ["| base (control)", "0.250†"]
    latex = render_ablation_latex(made())
    assert r"1 & 0.500 $\pm$ 0.283 & \textendash{} & \textendash{}" in latex
    assert "facts \\& edits" in latex
    assert "$-$1.00" in latex
    assert latex.index("\n10 &") < latex.rindex("\\midrule") < latex.index("\nbase (control) &")


def test_what_was_not_taught_is_told_only_where_something_was_left_out() -> None:
    assert "taught to the method count" not in render_ablation_markdown(
        made(settings=[Setting(label="items=1", value=1)])
    )
    assert "taught to the method count" in render_ablation_markdown(made())


def test_a_mean_of_fewer_concepts_than_others_have_is_marked() -> None:
    """The second value has no run for the dog yet; the control has one concept only."""
    table = pd.DataFrame(SCORES, columns=["method", "task", "concept", "metric", "value", "knowledge"])
    ablation = made(scores=table[(table["method"] != "items=10") | (table["concept"] != DOG)])
    text = render_ablation_markdown(ablation)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[1] for row in rows[2:]] == ["0.500 ± 0.283", "0.300†", "0.250†"]
    assert (
        "- † 10: 1 of 2 concepts in Recon. CLIP-I, Train (s), Peak mem. (MiB), Adapter (MiB), Draw (s/image)." in text
    )
    assert "- † base (control): 1 of 2 concepts in Recon. CLIP-I, Train (s)" in text
    assert "† 1:" not in text
    assert r"0.300$^{\dagger}$" in render_ablation_latex(ablation)


def test_published_values_of_the_setting_are_quoted() -> None:
    metrics = {**METRICS, "clip_t": MetricHeading(title="CLIP-T", tasks=frozenset({Task.GENERATION}))}
    quoted = (
        "Published (MoKus, arXiv 2603.12743, Table 2), by value: 1: Gen. CLIP-T 0.304, Train (s) 331.3; "
        "3: Gen. CLIP-T 0.305, Train (s) 345.1; 5: Gen. CLIP-T 0.305, Train (s) 360."
    )
    assert f"- {quoted}\n" in render_ablation_markdown(made(metrics=metrics))
    assert quoted in render_ablation_latex(made(metrics=metrics))
    eta = "Published (MoKus, arXiv 2603.12743, ablation of eta (the task is not stated)), by value: 1e-4: CLIP-I 0.557."
    assert reading(made(name="eta"))[-1] == eta
    assert not any("Published" in line for line in reading(made(name="layers")))


def test_nothing_measured_is_no_error(tmp_path: Path) -> None:
    empty = made(
        scores=pd.DataFrame(SCORES[:0], columns=["method", "task", "concept", "metric", "value", "knowledge"]),
        costs=pd.DataFrame(
            columns=["method", "concept", "seconds", "peak_memory_bytes", "adapter_bytes", "image_seconds"]
        ),
    )
    assert render_ablation_markdown(empty).splitlines()[4:7] == [
        "| 1 | – | – | – | – |",
        "| 10 | – | – | – | – |",
        "| base (control) | – | – | – | – |",
    ]
    assert len(write_ablation(tmp_path, empty) + write_ablation_figure(tmp_path, empty)) == 5


def test_the_figure_shows_means_concepts_and_controls_at_the_values() -> None:
    figure = ablation_figure(made())
    assert [axes.get_title() for axes in figure.axes] == [
        "Recon. CLIP-I",
        "Gen. PickScore",
        "Train (s)",
        "Peak mem. (MiB)",
        "Adapter (MiB)",
        "Draw (s/image)",
    ]
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    lines = {line.get_label(): line for line in axes.get_lines()}
    np.testing.assert_allclose(lines["mean of concepts"].get_xydata(), [[1, 0.5], [10, 0.6]])
    np.testing.assert_allclose(lines["one concept"].get_xydata(), [[1, 0.3], [10, 0.3]])
    assert list(lines["base (control)"].get_ydata()) == [0.25, 0.25]
    assert len(axes.get_lines()) == 4
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "10"]


def test_values_without_an_order_stand_side_by_side_and_unconnected() -> None:
    settings = [Setting(label="items=10", value="late"), Setting(label="items=1", value="early")]
    axes = ablation_figure(made("category", settings=settings)).axes[0]
    mean = next(line for line in axes.get_lines() if line.get_label() == "mean of concepts")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["late", "early"]
    assert list(mean.get_xdata()) == [0, 1]
    assert mean.get_linewidth() == 0


def test_files_are_whole_and_the_same_every_time(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        write_ablation(tmp_path / folder, made())
        write_ablation_figure(tmp_path / folder, made())
    names = {f"ablation.{kind}" for kind in ("csv", "md", "tex", "png", "pdf")}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert Image.open(tmp_path / "one" / "ablation.png").size[0] > 1000
    assert (tmp_path / "one" / "ablation.pdf").read_bytes().startswith(b"%PDF")
