"""The report's figures, from its tables: boxes, bars, differences, relative improvement, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sgool.report.canvas import INK, SOFT, Drawn, new_figure, shorten
from sgool.report.format import show, show_difference
from sgool.report.metrics import Metric
from sgool.report.palette import Colour
from sgool.report.stats import bootstrap_interval, relative_improvement
from sgool.report.summary import MethodRow, column, finished, reference_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 400
_MOST_CATEGORIES = 24


@dataclass(frozen=True)
class Source:
    """What figures are drawn from.

    Attributes:
        frame: From ``to_frame``.
        metrics: To draw, in order.
        rows: From ``method_rows``, over all of the frame.
        baselines: From ``baseline_labels``.
        colours: From ``method_colours``.
    """

    frame: pd.DataFrame
    metrics: Sequence[Metric]
    rows: Sequence[MethodRow]
    baselines: Mapping[str, str | None]
    colours: Mapping[str, Colour]

    def values(self, label: str, metric: Metric) -> pd.Series:
        """A method's scores, scaled for display, by pair."""
        return column(finished(self.frame, label), metric.key).dropna() * metric.scale


def score_figures(source: Source) -> list[Drawn]:
    """For every metric with values: boxes (unless it is 0 or 1), bars, differences, improvement per category, cost."""
    figures = []
    for at, metric in enumerate(source.metrics):
        present = [row for row in source.rows if row.cells[at].pairs]
        if not present:
            continue
        labels = [row.label for row in present]
        if len(np.unique(column(source.frame, metric.key).dropna())) > 2:
            figures.append(_boxes(source, metric, labels))
        figures.append(_bars(source, metric, labels))
        compared = [row for row in present if row.cells[at].difference and row.cells[at].difference.pairs]  # type: ignore[union-attr]
        if compared:
            figures.append(_differences(source, metric, at, compared))
        improvement = _relative(source, metric)
        figures += [improvement] if improvement else []
        figures.append(_cost(source, metric, at, present))
    return figures


def _boxes(source: Source, metric: Metric, labels: Sequence[str]) -> Drawn:
    figure, axes = new_figure(f"boxes-{metric.key}", rows=len(labels))
    values = [source.values(label, metric).to_numpy() for label in labels]
    boxes = axes.boxplot(
        values, orientation="horizontal", widths=0.56, patch_artist=True, showfliers=False, manage_ticks=False,
        medianprops={"color": INK, "linewidth": 1.6}, whiskerprops={"color": SOFT}, capprops={"color": SOFT},
    )  # fmt: skip
    spread = np.random.default_rng(0)
    for position, (label, box, found) in enumerate(zip(labels, boxes["boxes"], values, strict=True), start=1):
        colour = source.colours[label].light
        box.set(facecolor=colour, alpha=0.28, edgecolor=colour, linewidth=1.0)
        points = found if len(found) <= MOST_POINTS else spread.choice(found, MOST_POINTS, replace=False)
        heights = position + spread.uniform(-0.2, 0.2, len(points))
        axes.plot(points, heights, "o", color=colour, markersize=2.4, alpha=0.6, markeredgewidth=0, zorder=1.5)
    _method_axis(axes, labels, [len(found) for found in values])
    axes.set_xlabel(_axis_title(metric))
    medians = ", ".join(f"{label} {np.median(v):.{metric.digits}f}" for label, v in zip(labels, values, strict=True))
    return figure.done(
        f"{metric.name} per method",
        "Box: quartiles and median; whiskers: up to 1.5 quartile distances; a point is a pair.",
        f"Box plot of {metric.name} per method. Medians: {medians}.",
    )


def _bars(source: Source, metric: Metric, labels: Sequence[str]) -> Drawn:
    figure, axes = new_figure(f"bars-{metric.key}", rows=len(labels))
    means, texts = [], []
    for position, label in enumerate(labels, start=1):
        values = source.values(label, metric)
        prompts = finished(source.frame, label)["prompt"].reindex(values.index)
        means.append(float(values.mean()))
        axes.barh(position, means[-1], height=0.58, color=source.colours[label].light, alpha=0.85)
        interval = bootstrap_interval(values, prompts) if prompts.nunique() > 5 else None
        if interval:
            _whisker(axes, position, means[-1], interval, INK, None)
        texts.append(f"{label} {means[-1]:.{metric.digits}f}")
    low = min(0.0, *means)
    axes.set_xlim(left=low * 1.08 if low < 0 else 0)
    _method_axis(axes, labels, [len(source.values(label, metric)) for label in labels])
    axes.set_xlabel(f"mean {_axis_title(metric)}")
    return figure.done(
        f"Mean {metric.name}",
        "Line: 95 % bootstrap interval of the mean over prompts. The methods share their prompts: for comparisons look "
        "at the differences.",
        f"Bar plot of the mean {metric.name}: {', '.join(texts)}.",
    )


def _differences(source: Source, metric: Metric, at: int, rows: Sequence[MethodRow]) -> Drawn:
    figure, axes = new_figure(f"differences-{metric.key}", rows=len(rows))
    texts = []
    for position, row in enumerate(rows, start=1):
        found = row.cells[at].difference
        assert found is not None
        interval = None if found.low is None or found.high is None else (found.low, found.high)
        colour = source.colours[row.label]
        scaled = interval and (interval[0] * metric.scale, interval[1] * metric.scale)
        _whisker(axes, position, found.difference * metric.scale, scaled, colour.light, colour.marker)
        texts.append(f"{row.label} {show_difference(found.difference, metric)}")
    axes.axvline(0, color=SOFT, linewidth=0.9, zorder=0.5)
    _method_axis(axes, [row.label for row in rows], [row.cells[at].difference.pairs for row in rows])  # type: ignore[union-attr]
    against = {row.against for row in rows}
    whom = next(iter(against)) if len(against) == 1 else "the baseline"
    unit = metric.difference_unit.strip()
    axes.set_xlabel(f"difference of {metric.name} to {whom}" + (f" ({unit})" if unit else ""))
    return figure.done(
        f"{metric.name}: paired difference to {whom}",
        "Mean over pairs with its 95 % bootstrap interval over prompts.",
        f"Mean paired difference of {metric.name} to {whom}: {', '.join(texts)}.",
    )


def _relative(source: Source, metric: Metric) -> Drawn | None:
    """As in DOODL's figure: per cent above vanilla, per category and method."""
    labels = [row.label for row in source.rows if row.against]
    categories = [name for name in dict.fromkeys(source.frame["category"]) if name][:_MOST_CATEGORIES]
    if not labels or not categories or metric.direction <= 0:
        return None
    figure, axes = new_figure(f"improvement-{metric.key}", rows=len(categories), per_row=0.16 + 0.13 * len(labels))
    steps = np.linspace(-0.33, 0.33, len(labels)) if len(labels) > 1 else np.zeros(1)
    drawn: dict[str, int] = {}
    for position, category in enumerate(categories, start=1):
        part = source.frame[source.frame["category"] == category]
        for step, label in zip(steps, labels, strict=True):
            done = finished(part, label)
            others = reference_values(part, done, source.baselines[label], metric)
            found = relative_improvement(column(done, metric.key), others, done["prompt"])
            if found is None:
                continue
            colour = source.colours[label]
            interval = None if found.low is None or found.high is None else (found.low, found.high)
            name = label if label not in drawn else None
            _whisker(axes, position + step, found.percent, interval, colour.light, colour.marker, name)
            drawn[label] = drawn.get(label, 0) + found.pairs
    if not drawn:
        return None
    axes.axvline(0, color=SOFT, linewidth=0.9, zorder=0.5)
    counts = [int(source.frame.loc[source.frame["category"] == name, "pair_id"].nunique()) for name in categories]
    _method_axis(axes, categories, counts)
    axes.set_xlabel(f"improvement of mean {metric.name} over the baseline (%)")
    figure.legend(axes, len(drawn))
    return figure.done(
        f"{metric.name}: relative improvement per category",
        "Per cent above the baseline's mean in the category, with 95 % bootstrap intervals over prompts where there "
        "are six or more. Categories in which the baseline scores zero have none.",
        f"Relative improvement of {metric.name} per category for {', '.join(drawn)}; the numbers are in the tables.",
    )


def _cost(source: Source, metric: Metric, at: int, rows: Sequence[MethodRow]) -> Drawn:
    """Score against network calls, both as means per pair."""
    figure, axes = new_figure(f"cost-{metric.key}", rows=6)
    texts: list[str] = []
    seen: list[float] = []
    for row in rows:
        final, calls = row.cells[at].final, row.network_evaluations
        if final is None or not calls:
            continue
        values = source.values(row.label, metric)
        prompts = finished(source.frame, row.label)["prompt"].reindex(values.index)
        interval = bootstrap_interval(values, prompts) if prompts.nunique() > 5 else None
        colour = source.colours[row.label]
        # Methods of one budget stand beside each other.
        place = calls * 1.09 ** sum(abs(calls / other - 1) < 0.05 for other in seen)
        seen.append(calls)
        if interval:
            axes.plot([place, place], interval, color=colour.light, linewidth=1.7, solid_capstyle="butt")
        axes.plot(
            place, final * metric.scale, colour.marker, color=colour.light, markersize=7, label=row.label, zorder=3
        )
        texts.append(f"{row.label} {show(final, metric)} at {calls:,.0f} calls")
    axes.set_xscale("log")
    axes.margins(x=0.12)
    ticks = _apart(seen)
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.grid(axis="both", which="major")
    axes.set_xlabel("network calls per pair (mean, logarithmic)")
    axes.set_ylabel(_axis_title(metric))
    if texts:
        figure.legend(axes, len(texts))
    return figure.done(
        f"{metric.name} against compute",
        "Forward passes of the denoising network per image, with recomputation; line: 95 % interval of the mean. "
        "Methods of equal cost stand beside each other.",
        f"{metric.name} against network calls per pair: {'; '.join(texts)}.",
    )


def _apart(numbers: Sequence[float]) -> list[float]:
    """The numbers, without those that are nearly another: room for a label each."""
    kept: list[float] = []
    for number in sorted(numbers):
        if not kept or number > 1.25 * kept[-1]:
            kept.append(number)
    return kept


def _whisker(
    axes: Axes,
    height: float,
    middle: float,
    interval: tuple[float, float] | None,
    colour: str,
    marker: str | None,
    label: str | None = None,
) -> None:
    """A mean with its interval, lying."""
    if interval:
        axes.plot(interval, [height, height], color=colour, linewidth=1.7, solid_capstyle="butt", zorder=2)
    if marker:
        axes.plot(middle, height, marker, color=colour, markersize=6, label=label, zorder=3)


def _method_axis(axes: Axes, labels: Sequence[str], counts: Sequence[int]) -> None:
    """Names from top to bottom, each with its number of pairs."""
    texts: list[Any] = [f"{shorten(label)}  (n = {count})" for label, count in zip(labels, counts, strict=True)]
    axes.set_yticks(range(1, len(labels) + 1), texts)
    axes.set_ylim(len(labels) + 0.6, 0.4)
    axes.tick_params(axis="y", length=0)


def _axis_title(metric: Metric) -> str:
    unit = metric.unit.strip()
    return f"{metric.name} ({unit})" if unit else metric.name
