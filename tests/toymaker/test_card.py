"""The card of the weights, from hand-made figures."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from knowcusbench.toymaker import card, figures
from knowcusbench.toymaker.card import TARGETS, Column, Target, method_figures, recipe_and_key, render, table
from knowcusbench.toymaker.figures import compose

MANIFEST = {
    "world": "ab" * 32,
    "training": {
        "provenance": {"git": {"commit": "c0ffee", "dirty": False}},
        "stages": {
            "vae": {
                "hardware": "NVIDIA H100",
                "schedule": {"steps": 7, "batch_size": 2, "learning_rate": 0.5, "seed": 3},
                "seconds": 1800,
                "losses": [{"step": 7, "square": 0.25}],
            }
        },
    },
}
ROWS = [
    {"method": "base", "oracle_exact reconstruction": 0.0, "oracle_exact generation": 0.01},
    {
        "method": "mokus",
        "oracle_concept reconstruction": 0.8,
        "oracle_concept generation": 0.6,
        "image locality": 0.9,
    },
    {"method": "anchor", "oracle_exact reconstruction": 0.95, "oracle_exact generation": 0.85},
]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def column(dtype: str, rows: list[dict[str, object]], **others: float) -> Column:
    figures = {target.figure: target.least for target in TARGETS if ":" not in target.figure}
    figures |= {target.figure: 0.5 for target in TARGETS if target.figure not in figures}
    return Column("key", figures | others | method_figures(rows), rows, {"computed": f"in {dtype}"})


def judged(lines: list[str]) -> dict[str, list[str]]:
    return {cells(line)[0]: cells(line)[1:] for line in lines if line.startswith("| ")}


def test_every_target_is_compared_with_its_figures() -> None:
    half = [*ROWS[:2], {**ROWS[2], "oracle_exact generation": 0.7}]
    columns = {
        "float32": column("float32", ROWS, **{"SAM: something": 0.125}),
        "bfloat16": column("bfloat16", half, **{"VAE reconstruction, dB": 40.0}),
    }
    lines = render(columns, MANIFEST, {"eta": 1e-3}).splitlines()
    found = judged(lines)
    assert found["figure"] == ["bfloat16", "float32"]
    assert found["VAE reconstruction, dB"] == ["≥ 30", "40.000", "30.000", "yes"]
    assert found["base: oracle_exact generation"] == ["≤ 0.05", "0.010", "0.010", "yes"]
    assert found["mokus: oracle_concept reconstruction"] == ["≥ 0.75", "0.800", "0.800", "yes"]
    assert found["mokus: oracle_concept generation"] == ["≥ 0.7", "0.600", "0.600", "**no**"]
    assert found["anchor: oracle_exact generation"] == ["≥ 0.8", "0.700", "0.850", "**not in bfloat16**"]
    assert found["SAM: something"] == ["", "0.125"]
    # The lessons have such lines, too.
    assert [cells(line)[1] for line in lines if line.startswith("| anchor |")][:2] == ["bfloat16", "float32"]
    assert found["vae"] == ["7", "2", "0.5", "3", "0.50", "NVIDIA H100", "square 0.25"]
    assert '  "commit": "c0ffee",' in lines
    assert '  "eta": 0.001' in lines
    assert '  "computed": "in float32"' in lines
    missed = sum(not target.reached(columns["float32"].figures[target.figure]) for target in TARGETS)
    (line,) = (line for line in lines if line.startswith("- float32: "))
    assert line.startswith(f"- float32: {len(TARGETS) - missed} of {len(TARGETS)}; not: ")
    assert "mokus: oracle_concept generation" in line


def test_one_column_alone_is_a_card_too() -> None:
    lines = render({"float32": column("float32", ROWS)}, MANIFEST, {}).splitlines()
    assert judged(lines)["mokus: oracle_concept generation"] == ["≥ 0.7", "0.600", "**no**"]
    assert judged(lines)["figure"] == ["float32"]


def test_a_target_without_a_figure_is_named() -> None:
    with pytest.raises(ValueError, match="no figure 'captions: type, colour, pattern all right' in float32"):
        render({"float32": Column("key", {}, ROWS, {})}, MANIFEST, {})


def test_a_dtype_is_computed_and_the_other_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Except for other weights or settings."""
    monkeypatch.setattr(card, "CARD", tmp_path / "CARD.md")
    monkeypatch.setattr(card, "FIGURES", tmp_path / "CARD.json")
    monkeypatch.setattr(card, "PICTURES", tmp_path / "CARD.png")
    monkeypatch.setattr(card, "fixed_samples", lambda: Image.new("RGB", (1, 1)))
    monkeypatch.setattr(card, "instrument_figures", dict)
    monkeypatch.setattr(card, "column", lambda dtype, key, *_: replace(column(dtype, ROWS), key=key))
    for dtype, shown in (("float32", ["float32"]), ("bfloat16", ["bfloat16", "float32"])):
        monkeypatch.setattr("sys.argv", ["card", "--dtype", dtype])
        card.main()
        assert judged((tmp_path / "CARD.md").read_text(encoding="utf-8").splitlines())["figure"] == shown
    monkeypatch.setattr(card, "recipe_and_key", lambda _: ({}, "another"))
    monkeypatch.setattr("sys.argv", ["card", "--dtype", "bfloat16"])
    card.main()
    assert set(json.loads((tmp_path / "CARD.json").read_text(encoding="utf-8"))) == {"bfloat16"}


def test_weights_and_recipe_decide_the_key_and_dtype_and_places_do_not(tmp_path: Path) -> None:
    def key(*words: str) -> str:
        return recipe_and_key(compose([f"cache_dir={tmp_path}", *words]))[1]

    assert key() == key("backbone.dtype=float32") == key(f"cache_dir={tmp_path}/elsewhere") == key("editor=ft")
    assert len({key(), key("backbone.steps=7"), key("recipe.ultraedit.rounds=7")}) == 3


def test_parts_are_computed_by_processes_and_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With threads instead of processes, so that they see the patches."""
    monkeypatch.setattr(figures, "_processes", lambda _: ThreadPoolExecutor(2))
    monkeypatch.setattr(figures, "MODELS", {"a": lambda world: {"one": 1.0}, "b": lambda world: {"two": 2.0}})
    monkeypatch.setattr(figures, "INSTRUMENTS", {"eye": lambda: {"sharp": 0.5}})
    monkeypatch.setattr(figures, "locality", lambda world, label: float(len(label)) if world.run == tmp_path else 0.0)
    found, localities = figures.model_figures(figures.Evaluated("float32", tmp_path), ["base", "mokus"])
    assert found == {"one": 1.0, "two": 2.0}
    assert localities == {"base": 4.0, "mokus": 5.0}
    assert figures.instrument_figures() == {"eye: sharp": 0.5}


def test_what_is_reached() -> None:
    assert Target(figure="a", least=0.5).reached(0.5)
    assert not Target(figure="a", least=0.5).reached(0.499)
    assert Target(figure="a", most=0.5).reached(0.5)
    assert not Target(figure="a", most=0.5).reached(0.501)


def test_a_table() -> None:
    assert list(table(("a", "b"), [(1, "x")])) == ["| a | b |", "| --- | --- |", "| 1 | x |"]
