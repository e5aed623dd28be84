"""Draws figures with a line per method: boxes, bars, paired differences."""

from __future__ import annotations

import numpy as np

from sgool.report.canvas import INK, SOFT, Drawn
from sgool.report.format import show_difference
from sgool.report.metrics import Metric
from sgool.report.source import Source, axis_title, method_lines, whisker
from sgool.report.summary import Comparison

MOST_POINTS = 400


def boxes(source: Source, metric: Metric, at: int) -> Drawn:
    """Draw a box plot: quartiles, whiskers, and the pairs as points."""
    figure, axes, lines = method_lines(f"boxes-{metric.key}", source.comparisons[0], lambda row: row.cells[at].pairs)
    values = [source.values(line.row.label, metric, line.dataset).to_numpy() for line in lines]
    drawn = axes.boxplot(
        values, positions=[line.height for line in lines], orientation="horizontal", widths=0.56, patch_artist=True,
        showfliers=False, manage_ticks=False, medianprops={"color": INK, "linewidth": 1.6},
        whiskerprops={"color": SOFT}, capprops={"color": SOFT},
    )  # fmt: skip
    spread = np.random.default_rng(0)
    for line, box, found in zip(lines, drawn["boxes"], values, strict=True):
        look = source.looks[line.row.label]
        ground = "none" if look.hatch else (look.light, 0.28)  # an SVG cannot hatch a transparent ground
        box.set(facecolor=ground, edgecolor=(look.light, 0.6), linewidth=1.0, hatch=look.hatch)
        points = found if len(found) <= MOST_POINTS else spread.choice(found, MOST_POINTS, replace=False)
        heights = line.height + spread.uniform(-0.2, 0.2, len(points))
        axes.plot(points, heights, "o", color=look.light, markersize=2.4, alpha=0.6, markeredgewidth=0, zorder=1.5)
    axes.set_xlabel(axis_title(metric))
    medians = [f"{line.name} {np.median(v):.{metric.digits}f}" for line, v in zip(lines, values, strict=True)]
    return figure.done(
        f"{metric.name} per method",
        "Box: quartiles and median; whiskers: up to 1.5 quartile distances; a point is a pair.",
        f"Box plot of {metric.name} per method. Medians: {', '.join(medians)}.",
    )


def bars(source: Source, metric: Metric, at: int) -> Drawn:
    """Draw the means with their intervals as bars."""
    figure, axes, lines = method_lines(f"bars-{metric.key}", source.comparisons[0], lambda row: row.cells[at].pairs)
    means, texts = [], []
    for line in lines:
        values = source.values(line.row.label, metric, line.dataset)
        look = source.looks[line.row.label]
        means.append(float(values.mean()))
        axes.barh(
            line.height, means[-1], height=0.58, color=look.light, alpha=0.85, hatch=look.hatch, edgecolor=INK,
            linewidth=0,
        )  # fmt: skip
        interval = source.interval(line.row.label, values)
        if interval:
            axes.plot(interval, [line.height] * 2, color=INK, linewidth=1.7, solid_capstyle="butt", zorder=2)
        texts.append(f"{line.name} {means[-1]:.{metric.digits}f}")
    low = min(0.0, *means)
    axes.set_xlim(left=low * 1.08 if low < 0 else 0)
    axes.set_xlabel(f"mean {axis_title(metric)}")
    return figure.done(
        f"Mean {metric.name}",
        "Line: 95 % bootstrap interval of the mean over prompts. The methods share their prompts: for comparisons look "
        "at the differences.",
        f"Bar plot of the mean {metric.name}: {', '.join(texts)}.",
    )


def differences(source: Source, metric: Metric, at: int, comparison: Comparison, name: str) -> Drawn | None:
    """Draw the paired differences with their intervals.

    Args:
        source: What to draw from.
        metric: The metric to draw.
        at: The metric's position among the cells of a row.
        comparison: The comparison whose differences are drawn.
        name: The name of the figure.

    Returns:
        The figure, or None if no method has a difference.
    """
    figure, axes, lines = method_lines(
        name, comparison, lambda row: found.pairs if (found := row.cells[at].difference) else 0
    )
    if not lines:
        return None
    texts = []
    for line in lines:
        found = line.row.cells[at].difference
        assert found is not None
        interval = None
        if found.low is not None and found.high is not None:
            interval = (found.low * metric.scale, found.high * metric.scale)
        whisker(axes, line.height, found.difference * metric.scale, interval, source.looks[line.row.label])
        texts.append(f"{line.name} {show_difference(found.difference, metric)}")
    axes.axvline(0, color=SOFT, linewidth=0.9, zorder=0.5)
    unit = metric.difference_unit.strip()
    axes.set_xlabel(f"difference of {metric.name} to {comparison.name}" + (f" ({unit})" if unit else ""))
    return figure.done(
        f"{metric.name}: paired difference to {comparison.name}",
        "Mean over pairs with its 95 % bootstrap interval over prompts.",
        f"Mean paired difference of {metric.name} to {comparison.name}: {', '.join(texts)}.",
    )
