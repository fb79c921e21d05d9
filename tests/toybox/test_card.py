"""The card of the weights, from hand-made figures."""

import pytest

from knowcusbench.toybox.card import TARGETS, Target, method_figures, render, table

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


def test_every_target_is_compared_with_its_figure() -> None:
    figures = {target.figure: target.least for target in TARGETS if ":" not in target.figure}
    figures |= {target.figure: 0.5 for target in TARGETS if target.figure not in figures}
    figures |= {"SAM: something": 0.125} | method_figures(ROWS)
    lines = render(figures, ROWS, MANIFEST, {"recipe": {"eta": 1e-3}}).splitlines()
    judged = {cells(line)[0]: cells(line)[1:] for line in lines if line.startswith("| ")}
    assert judged["VAE reconstruction, dB"] == ["≥ 30", "30.000", "yes"]
    assert judged["base: oracle_exact generation"] == ["≤ 0.05", "0.010", "yes"]
    assert judged["mokus: oracle_concept reconstruction"] == ["≥ 0.75", "0.800", "yes"]
    assert judged["mokus: oracle_concept generation"] == ["≥ 0.7", "0.600", "**no**"]
    assert judged["SAM: something"] == ["0.125"]
    assert judged["vae"] == ["7", "2", "0.5", "3", "0.50", "NVIDIA H100", "square 0.25"]
    assert '  "commit": "c0ffee",' in lines
    assert '  "eta": 0.001' in lines


def test_a_target_without_a_figure_is_named() -> None:
    with pytest.raises(ValueError, match="no figure 'captions: type, colour, pattern all right'"):
        render({}, ROWS, MANIFEST, {})


def test_what_is_reached() -> None:
    assert Target(figure="a", least=0.5).reached(0.5)
    assert not Target(figure="a", least=0.5).reached(0.499)
    assert Target(figure="a", most=0.5).reached(0.5)
    assert not Target(figure="a", most=0.5).reached(0.501)


def test_a_table() -> None:
    assert list(table(("a", "b"), [(1, "x")])) == ["| a | b |", "| --- | --- |", "| 1 | x |"]
