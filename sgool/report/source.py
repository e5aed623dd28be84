"""What figures are drawn from, and the axis that they share: one line per method, under a heading per data set."""

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
    """What figures are drawn from.

    Attributes:
        frame: From ``to_frame``.
        metrics: To draw, in order.
        comparisons: The first one is that of the figures that show one alone.
        looks: From ``method_looks``.
    """

    frame: pd.DataFrame
    metrics: Sequence[Metric]
    comparisons: Sequence[Comparison]
    looks: Mapping[str, Look]

    @property
    def rows(self) -> Sequence[MethodRow]:
        """Of all methods, over all data sets."""
        return self.comparisons[0].overall

    def values(self, label: str, metric: Metric, dataset: str | None = None) -> pd.Series:
        """A method's scores, scaled for display, by pair."""
        frame = self.frame if dataset is None else self.frame[self.frame["dataset"] == dataset]
        return column(finished(frame, label), metric.key).dropna() * metric.scale

    def interval(self, label: str, values: pd.Series) -> tuple[float, float] | None:
        """The bootstrap interval of a mean of ``values``; None with too few prompts."""
        prompts = finished(self.frame, label)["group"].reindex(values.index)
        return bootstrap_interval(values, prompts) if prompts.nunique() >= FEWEST_GROUPS else None


@dataclass(frozen=True)
class Line:
    """A method's line in a figure.

    Attributes:
        height: On the axis, from the top down.
        dataset: Which it shows.
        row: The method there.
        name: For the alternative text: the method, after its data set where there are several.
    """

    height: int
    dataset: str
    row: MethodRow
    name: str


def method_lines(
    name: str, comparison: Comparison, shown: Callable[[MethodRow], int]
) -> tuple[Figure, Axes, list[Line]]:
    """A figure with one line per method and its number of pairs, under a heading per data set if there are several.

    Args:
        name: Of the figure.
        comparison: Whose methods.
        shown: The number of pairs that a line shows; without any there is no line.
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
    """Names (height, name, number of pairs) from top to bottom, and headings (height, text) among them."""
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
    """A mean with its interval, lying."""
    if interval:
        axes.plot(
            interval, [height, height], color=look.light, linewidth=1.7, linestyle=look.line, solid_capstyle="butt",
            zorder=2,
        )  # fmt: skip
    axes.plot(middle, height, **look.point(), markersize=6, linestyle="", label=label, zorder=3)


def axis_title(metric: Metric) -> str:
    """A metric's name and unit."""
    unit = metric.unit.strip()
    return f"{metric.name} ({unit})" if unit else metric.name
