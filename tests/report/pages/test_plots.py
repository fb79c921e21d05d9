"""Positions of the marks in the figures."""

import itertools

import pytest

from knowcusbench.report.pages.plots import WIDTH, axis, line_plots, place_labels


def test_an_axis_is_linear_or_logarithmic():
    linear = axis([0.0, 10.0], 100, 200, pad=0)
    assert [linear(value) for value in (0, 2.5, 10)] == [100, 125, 200]
    log = axis([1e-4, 1e-2], 100, 200, log=True, pad=0)
    assert [log(value) for value in (1e-4, 1e-3, 1e-2)] == [100, 150, 200]
    upright = axis([0.0, 1.0], 200, 0, pad=0)
    assert upright(0.25) == 150


def test_ticks_are_round_and_inside():
    scale = axis([0.13, 0.87], 0, 100)
    for place, text in scale.ticks():
        assert 0 <= place <= 100
        assert scale(float(text)) == place


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5], [0.0]])
def test_an_axis_of_few_values_is_an_axis(values):
    scale = axis(values, 0, 100)
    assert scale.low < scale.high
    assert all(0 < scale(value) < 100 for value in values)


def test_labels_keep_clear_of_dots_and_of_each_other():
    dots = [(150.0, 100.0), (165.0, 103.0), (200.0, 100.0), (WIDTH - 20.0, 100.0)]
    labels = place_labels(dots, ["mokus", "naive_db", "enc_ft", "anchor"])
    boxes = []
    for (x, y, anchor), text in zip(labels, ["mokus", "naive_db", "enc_ft", "anchor"], strict=True):
        wide = 6.0 * len(text)
        left = {"start": x, "end": x - wide, "middle": x - wide / 2}[anchor]
        boxes.append((left, y - 9, left + wide, y + 2))
        assert left + wide <= WIDTH
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_a_line_goes_through_the_means_of_the_settings(pages):
    ablation = pages[1].ablation
    plot = line_plots(ablation)[0]
    means = ablation.summary[ablation.summary["column"] == plot.column.key].set_index("label")["mean"]
    assert [text for *_, text in plot.dots] == [f"{s.value:g}: {means[s.label]:.3f}" for s in ablation.settings]
    # Where the mean is higher the dot is nearer to the top, and the smaller value is on the left.
    (left, top, _), (other_left, other_top, _) = plot.dots
    assert (top < other_top) == (means[ablation.settings[0].label] > means[ablation.settings[1].label])
    assert (left < other_left) == (ablation.settings[0].value < ablation.settings[1].value)
    assert [label for _, label in plot.controls] == ["base", "anchor"]
    assert len(plot.concepts) == 4
