"""Positions of the marks in the figures of the pages; the template `figures.html.jinja` draws them.

Round ticks are matplotlib's; its SVG is not used. There, colours are inline styles, so that the page's themes would not
reach them, and marks have no `<title>`, which is what a reader sees on hovering and hears: both would have to be put in
by rewriting its XML. Measured for a figure of six methods: 12.7 kB and 48 ms, here 2.6 kB and 2 ms; a page has dozens.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from knowcusbench.analysis.ablation import Ablation
from knowcusbench.analysis.pareto import pareto_front
from knowcusbench.analysis.types import Cell, Column, Leaderboard, Row, RowKind
from knowcusbench.report.figures.backend import import_matplotlib
from knowcusbench.report.tables.ablation import shown_value

WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 118, 14, 8, 24
"""Margins in pixels; row labels are in the left one."""

ROW = 22
HEIGHT = 236
"""Height of a figure with two axes."""

LABEL = 17
"""Characters of a label that fit."""

CHARACTER = 6.6
"""Approximate width of a character, in pixels."""

OWN = (RowKind.METHOD, RowKind.CONTROL)


@dataclass(frozen=True)
class Axis:
    """An axis from value `low` to `high`, drawn from pixel `start` to pixel `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(one) if self.log else one for one in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, count: int = 4) -> list[tuple[float, str]]:
        """Return pixel and text of round values."""
        import_matplotlib()
        from matplotlib.ticker import LogLocator, MaxNLocator

        locator = LogLocator(numticks=count) if self.log else MaxNLocator(nbins=count)
        inside = [float(value) for value in locator.tick_values(self.low, self.high) if self.low <= value <= self.high]
        return [(self(value), f"{value:g}".replace("-", "−")) for value in inside]


def axis(values: Iterable[float], start: float, end: float, *, log: bool = False, pad: float = 0.05) -> Axis:
    """Return an axis for these values, with some room at both ends."""
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if log:
        factor = (high / low) ** pad if high > low else 2.0
        return Axis(low / factor, high * factor, start, end, log)
    room = (high - low) * pad if high > low else abs(high) or 1.0
    return Axis(low - room, high + room, start, end)


def shortened(label: str) -> str:
    return label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"


@dataclass(frozen=True)
class Interval:
    """A row: its mean and the ends of its interval in pixels; None if unknown."""

    label: str
    text: str
    kind: RowKind
    y: float
    mean: float | None
    low: float | None
    high: float | None
    tooltip: str


@dataclass(frozen=True)
class IntervalPlot:
    """One column of the leaderboard: a line per method, and vertical ones at the floor and the ceiling."""

    column: Column
    height: float
    rows: Sequence[Interval]
    ticks: Sequence[tuple[float, str]]
    marks: Sequence[tuple[float, str]]


def interval_plots(board: Leaderboard) -> list[IntervalPlot]:
    """Return a plot for every column of scores."""
    return [_intervals(board, place) for place, column in enumerate(board.columns) if column.task]


def _intervals(board: Leaderboard, place: int) -> IntervalPlot:
    column = board.columns[place]
    own = [row for row in board.rows if row.kind in OWN]
    frames = [row for row in board.rows if row.kind in (RowKind.FLOOR, RowKind.CEILING)]
    scale = axis(_values([*own, *frames], place), LEFT, WIDTH - RIGHT)
    rows = [_interval(column, row, row.cells[place], scale, number) for number, row in enumerate(own)]
    marks = [(scale(value), row.label) for row in frames if (value := row.cells[place].value) is not None]
    return IntervalPlot(column, TOP + ROW * len(rows) + BOTTOM, rows, scale.ticks(), marks)


def _values(rows: Sequence[Row], place: int) -> Iterable[float]:
    for row in rows:
        cell = row.cells[place]
        # Floor and ceiling are drawn without an interval.
        ends = (cell.low, cell.high) if row.kind in OWN else ()
        yield from (value for value in (cell.value, *ends) if value is not None)


def _interval(column: Column, row: Row, cell: Cell, scale: Axis, number: int) -> Interval:
    low, mean, high = (None if value is None else scale(value) for value in (cell.low, cell.value, cell.high))
    shown = "no score" if cell.value is None else f"{cell.value:.{column.decimals}f}"
    if cell.low is not None:
        shown += f" [{cell.low:.{column.decimals}f}, {cell.high:.{column.decimals}f}]"
    return Interval(row.label, shortened(row.label), row.kind, TOP + ROW * (number + 0.5), mean, low, high, shown)


@dataclass(frozen=True)
class Dot:
    """A method in the plane of cost and quality; `text_x`, `text_y` and `anchor` place its label."""

    label: str
    text: str
    kind: RowKind
    x: float
    y: float
    text_x: float
    text_y: float
    anchor: str
    tooltip: str


@dataclass(frozen=True)
class ParetoPlot:
    """Quality against cost; `front` is the path along the Pareto front of the methods."""

    column: Column
    cost: Column
    dots: Sequence[Dot]
    front: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


def pareto_plots(board: Leaderboard, cost_key: str) -> list[ParetoPlot]:
    """Return a plot of every column of scores against one cost; none if fewer than two rows have both."""
    cost_place = next(place for place, column in enumerate(board.columns) if column.key == cost_key)
    plots = (_pareto(board, place, cost_place) for place, column in enumerate(board.columns) if column.task)
    return [plot for plot in plots if plot]


def _pareto(board: Leaderboard, place: int, cost_place: int) -> ParetoPlot | None:
    column, cost = board.columns[place], board.columns[cost_place]
    known: list[tuple[Row, float, float]] = []
    for row in board.rows:
        spent, value = row.cells[cost_place].value, row.cells[place].value
        if row.kind in OWN and spent is not None and value is not None:
            known.append((row, spent, value))
    if len(known) < 2:
        return None
    x = axis((spent for _, spent, _ in known), 46, WIDTH - RIGHT, pad=0.08)
    y = axis((value for *_, value in known), HEIGHT - 40, TOP, pad=0.1)
    methods = [(row, spent, value) for row, spent, value in known if row.kind is RowKind.METHOD]
    front = pareto_front(
        [(spent, value) for _, spent, value in methods], higher_is_better=bool(column.higher_is_better)
    )
    steps = [(x(methods[one][1]), y(methods[one][2])) for one in front]
    path = "".join(f"M{left} {top}" if number == 0 else f"H{left}V{top}" for number, (left, top) in enumerate(steps))
    places = [(x(spent), y(value)) for _, spent, value in known]
    labels = place_labels(places, [shortened(row.label) for row, *_ in known])
    dots = [
        Dot(
            label=row.label,
            text=shortened(row.label),
            kind=row.kind,
            x=left,
            y=top,
            text_x=text_x,
            text_y=text_y,
            anchor=anchor,
            tooltip=f"{value:.{column.decimals}f} at {spent:.{cost.decimals}f} {cost.name.strip('()')}",
        )
        for (row, spent, value), (left, top), (text_x, text_y, anchor) in zip(known, places, labels, strict=True)
    ]
    return ParetoPlot(column, cost, dots, path, x.ticks(), y.ticks())


Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a box, in pixels."""


def place_labels(dots: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[tuple[float, float, str]]:
    """Return the position of each dot's label (x, y of its base line, anchor).

    A label is right, left, above or below its dot: where it overlaps least with dots and the labels before it.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in dots]
    placed = []
    for (x, y), text in zip(dots, texts, strict=True):
        wide = CHARACTER * len(text)
        options = [
            ((x + 9, y + 4, "start"), (x + 9, y - 7, x + 9 + wide, y + 7)),
            ((x - 9, y + 4, "end"), (x - 9 - wide, y - 7, x - 9, y + 7)),
            ((x, y - 10, "middle"), (x - wide / 2, y - 21, x + wide / 2, y - 7)),
            ((x, y + 19, "middle"), (x - wide / 2, y + 8, x + wide / 2, y + 22)),
        ]
        label, box = min(options, key=lambda option: sum(_overlap(option[1], other) for other in [*taken, *OUTSIDE]))
        taken.append(box)
        placed.append(label)
    return placed


OUTSIDE: Sequence[Box] = ((-400, -400, 44, 800), (WIDTH, -400, 800, 800), (-400, -400, 800, -4), (-400, 198, 800, 800))
"""Boxes around the plot area, where no label should be."""


def _overlap(one: Box, other: Box) -> float:
    """Return the area shared by two boxes."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0) * max(down, 0)


@dataclass(frozen=True)
class LinePlot:
    """A column over the values of a setting: a path per concept, the mean, and the means of controls."""

    column: Column
    title: str
    concepts: Sequence[str]
    mean: str
    joined: bool
    dots: Sequence[tuple[float, float, str]]
    controls: Sequence[tuple[float, str]]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


def line_plots(ablation: Ablation) -> list[LinePlot]:
    """Return a plot for every column that has a value."""
    present = set(ablation.per_concept["column"])
    return [_lines(ablation, column) for column in ablation.columns if column.key in present]


def _lines(ablation: Ablation, column: Column) -> LinePlot:
    log = ablation.scale == "log"
    places = {
        setting.label: float(setting.value) if log else float(number)
        for number, setting in enumerate(ablation.settings)
    }
    own = ablation.per_concept[ablation.per_concept["column"] == column.key]
    means = ablation.summary[ablation.summary["column"] == column.key].set_index("label")["mean"].to_dict()
    shown = own[own["label"].isin([*places, *ablation.controls])]["value"]
    x = axis(places.values(), 46, WIDTH - RIGHT, log=log)
    y = axis([*map(float, shown), *map(float, means.values())], HEIGHT - 40, TOP)
    order = sorted(places, key=places.__getitem__)
    concepts = []
    for _, rows in own[own["label"].isin(places)].groupby("concept", observed=True):
        values = rows.set_index("label")["value"].to_dict()
        concepts.append(_path((x(places[label]), y(values[label])) for label in order if label in values))
    dots = [
        (x(places[label]), y(means[label]), f"{shown_value(value)}: {means[label]:.{column.decimals}f}")
        for label, value in ((setting.label, setting.value) for setting in ablation.settings)
        if label in means
    ]
    ticks = [(x(places[setting.label]), shown_value(setting.value)) for setting in ablation.settings]
    return LinePlot(
        column=column,
        title=ablation.title,
        concepts=concepts,
        mean=_path((left, top) for left, top, _ in sorted(dots)),
        joined=log,
        dots=dots,
        controls=[(y(means[label]), label) for label in ablation.controls if label in means],
        x_ticks=[next(group) for _, group in groupby(ticks, key=lambda tick: tick[0])],
        y_ticks=y.ticks(),
    )


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "".join(f"{'L' if number else 'M'}{left} {top}" for number, (left, top) in enumerate(points))
