"""The figures of each metric: boxes, bars, differences, relative improvement, cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sgool.report.canvas import GRID, SOFT, Drawn, file_name, new_figure
from sgool.report.cost import cost_figure
from sgool.report.method_figures import bars, boxes, differences
from sgool.report.metrics import Metric
from sgool.report.source import Source, axis_of_names, whisker
from sgool.report.stats import relative_improvement
from sgool.report.summary import column, finished, reference_values

_MOST_CATEGORIES = 24


def score_figures(source: Source) -> dict[str, list[Drawn]]:
    """Draws, for each metric with values: boxes (unless it is 0 or 1), bars, differences, improvement, cost.

    Returns:
        Key of the metric -> its figures.
    """
    figures = {}
    endings = _file_endings([comparison.name for comparison in source.comparisons])
    for at, metric in enumerate(source.metrics):
        present = [row for row in source.rows if row.cells[at].pairs]
        if not present:
            continue
        found: list[Drawn | None] = []
        if len(np.unique(column(source.frame, metric.key).dropna())) > 2:
            found.append(boxes(source, metric, at))
        found.append(bars(source, metric, at))
        for ending, comparison in zip(endings, source.comparisons, strict=True):
            found.append(differences(source, metric, at, comparison, f"differences-{metric.key}{ending}"))
        found.append(_relative(source, metric))
        found.append(cost_figure(source, metric, at, present))
        figures[metric.key] = [drawn for drawn in found if drawn]
    return figures


def _file_endings(names: Sequence[str]) -> list[str]:
    """Returns what the comparisons' file names end in: nothing for the first; equal endings are numbered."""
    endings = [""]
    for position, name in enumerate(names[1:], start=2):
        ending = f"-to-{file_name(name)}"
        endings.append(f"{ending}-{position}" if ending in endings else ending)
    return endings


def _relative(source: Source, metric: Metric) -> Drawn | None:
    """Draws per cent above the baseline per category and method, as the DOODL paper (Wallace et al. 2023) does."""
    baselines = source.comparisons[0].baselines
    labels = [row.label for row in source.rows if row.against]
    categories = [name for name in dict.fromkeys(source.frame["category"]) if name][:_MOST_CATEGORIES]
    if not labels or not categories or metric.direction <= 0:
        return None
    figure, axes = new_figure(f"improvement-{metric.key}", rows=len(categories), per_row=0.2 + 0.15 * len(labels))
    # The methods of a category stand close together, and a line parts it from the next: no mark is between two names.
    reach = min(0.3, 0.12 * (len(labels) - 1))
    steps = np.linspace(-reach, reach, len(labels))
    drawn: dict[str, int] = {}
    for position, category in enumerate(categories, start=1):
        part = source.frame[source.frame["category"] == category]
        for step, label in zip(steps, labels, strict=True):
            done = finished(part, label)
            others = reference_values(part, done, baselines[label], metric)
            found = relative_improvement(column(done, metric.key), others, done["group"])
            if found is None:
                continue
            interval = None if found.low is None or found.high is None else (found.low, found.high)
            name = label if label not in drawn else None
            look = source.looks[label]
            axes.plot([0, found.percent], [position + step] * 2, color=look.light, alpha=0.35, linewidth=1.0, zorder=1)
            whisker(axes, position + step, found.percent, interval, look, name)
            drawn[label] = drawn.get(label, 0) + found.pairs
    if not drawn:
        return None
    axes.axvline(0, color=SOFT, linewidth=0.9, zorder=0.5)
    axes.hlines(np.arange(1, len(categories)) + 0.5, 0, 1, transform=axes.get_yaxis_transform(), color=GRID)
    counts = [int(source.frame.loc[source.frame["category"] == name, "pair_id"].nunique()) for name in categories]
    axis_of_names(axes, list(zip(range(1, len(categories) + 1), categories, counts, strict=True)))
    axes.set_xlabel(f"improvement of mean {metric.name} over the baseline (%)")
    figure.legend(axes)
    return figure.done(
        f"{metric.name}: relative improvement per category",
        "Per cent above the baseline's mean in the category, a mark per method; thin lines lead to zero. Thick lines: "
        "95 % bootstrap intervals over prompts where there are six or more. Categories in which the baseline scores "
        "zero have none.",
        f"Relative improvement of {metric.name} per category for {', '.join(drawn)}; the numbers are in the tables.",
    )
