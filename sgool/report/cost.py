"""The figure of a metric against what it costs: network calls, and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sgool.report.canvas import SOFT, Drawn, new_grid
from sgool.report.format import show
from sgool.report.metrics import Metric
from sgool.report.source import Source, axis_title
from sgool.report.summary import MethodRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class _Point:
    """A method's mean score and cost; ``interval`` is that of the score."""

    label: str
    cost: float
    score: float
    interval: tuple[float, float] | None


def cost_figure(source: Source, metric: Metric, at: int, rows: Sequence[MethodRow]) -> Drawn:
    """Draws the score against network calls and against seconds, all as means per pair.

    A dashed line goes through the method that the others are compared with, from which they are seen to rise or fall.

    Args:
        source: What to draw from.
        metric: The metric to draw.
        at: The metric's position among the cells of a row.
        rows: The rows of methods that have it.
    """
    name = f"cost-{metric.key}"
    kinds = (
        ("network calls per pair (log.)", [row.network_calls for row in rows], ",.0f"),
        ("seconds per pair (log.)", [row.seconds for row in rows], ",.3g"),
    )
    figure, panels = new_grid(name, 2, 2, 2.3 + 0.07 * len(rows))
    for axes, (title, costs, digits) in zip(panels, kinds, strict=True):
        points = _points(source, metric, at, rows, costs)
        _draw(axes, source, points, digits)
        origin = [row.cells[at].final for row in rows if row.against is None]
        if origin and origin[0] is not None:
            axes.axhline(origin[0] * metric.scale, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0.5)
        axes.set_xlabel(title)
    panels[0].set_ylabel(axis_title(metric))
    shown = next((axes for axes in panels if axes.get_legend_handles_labels()[1]), None)
    if shown is not None:
        figure.legend(shown)
    texts = [_told(row, metric, at) for row in rows if row.cells[at].final is not None]
    return figure.done(
        f"{metric.name} against compute",
        "Network calls: forward passes of the denoising network for an image, recomputations, and backward passes. "
        "Vertical line: 95 % interval of the mean; dashed line: the method that the others are compared with.",
        f"{metric.name} against network calls and seconds per pair: {'; '.join(texts)}.",
    )


def _points(
    source: Source, metric: Metric, at: int, rows: Sequence[MethodRow], costs: Sequence[float | None]
) -> list[_Point]:
    points = []
    for row, cost in zip(rows, costs, strict=True):
        final = row.cells[at].final
        if final is not None and cost:
            values = source.values(row.label, metric)
            points.append(_Point(row.label, cost, final * metric.scale, source.interval(row.label, values)))
    return points


def _draw(axes: Axes, source: Source, points: Sequence[_Point], digits: str) -> None:
    seen: list[float] = []
    for point in points:
        look = source.looks[point.label]
        # Methods of one cost stand beside each other.
        place = point.cost * 1.09 ** sum(abs(point.cost / other - 1) < 0.05 for other in seen)
        seen.append(point.cost)
        if point.interval:
            axes.plot(
                [place, place], point.interval, color=look.light, linewidth=1.7, linestyle=look.line,
                solid_capstyle="butt",
            )  # fmt: skip
        axes.plot(place, point.score, **look.point(), linestyle="", markersize=6, label=point.label, zorder=3)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    ticks = _apart(seen)
    axes.set_xticks(ticks, [format(tick, digits) for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.grid(axis="both", which="major")


def _told(row: MethodRow, metric: Metric, at: int) -> str:
    calls = f"{row.network_calls:,.0f} calls" if row.network_calls else ""
    seconds = f"{row.seconds:,.3g} s" if row.seconds else ""
    cost = " and ".join(filter(None, (calls, seconds)))
    return f"{row.label} {show(row.cells[at].final, metric)}" + (f" at {cost}" if cost else "")


def _apart(numbers: Sequence[float]) -> list[float]:
    """Returns the numbers that are far enough apart for a label each, in half of a figure's width."""
    kept: list[float] = []
    spread = max(numbers) / min(numbers) if numbers else 1.0
    for number in sorted(numbers):
        if not kept or number / kept[-1] > max(1.4, spread**0.15):
            kept.append(number)
    return kept
