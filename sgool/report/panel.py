"""A metric's table on the page: the scale on which its intervals are drawn, and the scale's axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sgool.report.format import number
from sgool.report.metrics import Metric
from sgool.report.summary import Comparison

_MOST_STEPS = 4
"""More numbers would run into each other: an axis has at least 110 pixels."""


@dataclass(frozen=True)
class Tick:
    """A number of an axis: its place in per cent of the scale's length, and how it is written."""

    place: float
    text: str
    zero: bool = False


@dataclass(frozen=True)
class Panel:
    """A metric's table: its rows per data set, and the scale on which their intervals are drawn.

    Attributes:
        metric: The metric.
        position: Its position among the cells of a row.
        low: The scale's lower end, in the metric's own unit.
        high: The scale's upper end.
    """

    metric: Metric
    position: int
    low: float
    high: float

    def place(self, value: float) -> float:
        """Return a value's place on the scale, in per cent of its length."""
        return round(100.0 * (value - self.low) / (self.high - self.low), 2)

    @property
    def ticks(self) -> list[Tick]:
        """The numbers of the axis: round ones at equal distances, among them zero."""
        scale = self.metric.scale
        low, high = sorted((self.low * scale, self.high * scale))
        step = _round_step((high - low) / _MOST_STEPS)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        digits += not math.isclose(step * 10**digits, round(step * 10**digits), rel_tol=1e-6)  # a step of 2.5
        places = range(math.ceil(low / step), math.floor(high / step) + 1)
        return [Tick(self.place(k * step / scale), number(k * step, digits if k else 0), k == 0) for k in places]


def make_panel(metric: Metric, position: int, comparisons: Sequence[Comparison]) -> Panel:
    """Make a metric's panel, with a scale that holds zero and every interval."""
    found = [row for comparison in comparisons for dataset in comparison.datasets for row in dataset.methods]
    ends = [0.0]
    for difference in (row.cells[position].difference for row in found):
        if difference is not None and difference.pairs:
            ends += [difference.difference, difference.low or 0.0, difference.high or 0.0]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    return Panel(metric, position, min(ends) - margin, max(ends) + margin)


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5, times a power of ten, that is at least ``least`` (above 0)."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= least * (1 - 1e-9))
