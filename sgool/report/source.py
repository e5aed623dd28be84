"""The data that figures are drawn from, and the axis that they share: a line per method, a heading per data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from sgool.report.canvas import Figure, new_figure, shorten
from sgool.report.metrics import Metric
from sgool.report.palette import Look
from sgool.report.stats import FEWEST_GROUPS, bootstrap_interval
from sgool.report.summary import Comparison, MethodRow, column, finished

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Source:
    """The data that figures are drawn from.

    Attributes:
        frame: From ``to_frame``.
        metrics: The metrics to draw, in order.
        comparisons: All comparisons; figures that show a single one show the first.
        looks: Colours and markers of methods, from ``method_looks``.
    """

    frame: pd.DataFrame
    metrics: Sequence[Metric]
    comparisons: Sequence[Comparison]
    looks: Mapping[str, Look]

    @property
    def rows(self) -> Sequence[MethodRow]:
        """The rows of all methods, over all data sets."""
        return self.comparisons[0].overall

    def values(self, label: str, metric: Metric, dataset: str | None = None) -> pd.Series:
        """Returns a method's scores by pair, scaled for display."""
        frame = self.frame if dataset is None else self.frame[self.frame["dataset"] == dataset]
        return column(finished(frame, label), metric.key).dropna() * metric.scale

    def interval(self, label: str, values: pd.Series) -> tuple[float, float] | None:
        """Returns the bootstrap interval of the mean of ``values``; None if there are too few prompts."""
        prompts = finished(self.frame, label)["group"].reindex(values.index)
        return bootstrap_interval(values, prompts) if prompts.nunique() >= FEWEST_GROUPS else None


@dataclass(frozen=True)
class Line:
    """A method's line in a figure.

    Attributes:
        height: Its place on the axis, counted from the top.
        dataset: The data set that it shows.
        row: The method's row on this data set.
        name: Its name in the alternative text: the method, after the data set if there are several.
    """

    height: int
    dataset: str
    row: MethodRow
    name: str


def method_lines(
    name: str, comparison: Comparison, shown: Callable[[MethodRow], int]
) -> tuple[Figure, Axes, list[Line]]:
    """Makes a figure with a line per method and its number of pairs, under a heading per data set if there are several.

    Args:
        name: The name of the figure.
        comparison: The comparison whose methods are shown.
        shown: Returns the number of pairs that a row's line shows; 0: there is no line.
    """
    several = len(comparison.datasets) > 1
    lines: list[Line] = []
    heads: list[tuple[int, str]] = []
    height = 0
    for dataset in comparison.datasets:
        rows = [row for row in dataset.methods if shown(row)]
        if rows and several:
            height += 1
            heads.append((height, dataset.dataset))
        for row in rows:
            height += 1
            label = f"{dataset.dataset}, {row.label}" if several else row.label
            lines.append(Line(height, dataset.dataset, row, label))
    figure, axes = new_figure(name, rows=height)
    axis_of_names(axes, [(line.height, line.row.label, shown(line.row)) for line in lines], heads)
    return figure, axes, lines


def axis_of_names(axes: Axes, names: Sequence[tuple[int, str, int]], heads: Sequence[tuple[int, str]] = ()) -> None:
    """Labels an axis with names (height, name, number of pairs) and, among them, headings (height, text)."""
    texts: list[tuple[int, str]] = [(height, f"{shorten(name)}  (n = {count})") for height, name, count in names]
    entries: list[Any] = sorted([*texts, *((height, shorten(text)) for height, text in heads)])
    axes.set_yticks([height for height, _ in entries], [text for _, text in entries])
    bold = {height for height, _ in heads}
    for (height, _), label in zip(entries, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if height in bold else "normal")
    axes.set_ylim(len(entries) + 0.6, 0.4)
    axes.tick_params(axis="y", length=0)


def whisker(
    axes: Axes,
    height: float,
    middle: float,
    interval: tuple[float, float] | None,
    look: Look,
    label: str | None = None,
) -> None:
    """Draws a mean with its interval as a horizontal line."""
    if interval:
        axes.plot(
            interval, [height, height], color=look.light, linewidth=1.7, linestyle=look.line, solid_capstyle="butt",
            zorder=2,
        )  # fmt: skip
    axes.plot(middle, height, **look.point(), markersize=6, linestyle="", label=label, zorder=3)


def axis_title(metric: Metric) -> str:
    """Returns a metric's name and unit, for an axis."""
    unit = metric.unit.strip()
    return f"{metric.name} ({unit})" if unit else metric.name
