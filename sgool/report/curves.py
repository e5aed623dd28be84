"""Figures over the updates: loss, selection score and judges, as medians with quantile bands."""

from __future__ import annotations

from collections.abc import Mapping

from sgool.report.canvas import SOFT, Drawn, new_grid, shorten
from sgool.report.history import Curve, Histories
from sgool.report.palette import Look

_TITLES = {
    "loss": ("Loss over updates", "loss"),
    "selection": ("Lowest selection score so far", "selection score"),
}
_SHOWN = ("loss", "selection")


def curve_figures(histories: Histories, looks: Mapping[str, Look]) -> list[Drawn]:
    """Draws a figure for loss, selection score, and every judge that scored along the way (``NAME/KIND``)."""
    figures = []
    for name, found in histories.curves.items():
        curves = {label: curve for label, curve in found.items() if len(curve.updates) > 1}
        if curves and (name in _SHOWN or "/" in name):
            figures.append(_figure(name, curves, looks))
    return figures


def _figure(name: str, curves: Mapping[str, Curve], looks: Mapping[str, Look]) -> Drawn:
    from matplotlib.ticker import MaxNLocator

    title, unit = _TITLES.get(name, (f"{name} over updates", name))
    labels = [label for label in looks if label in curves]
    columns = min(3, len(labels))
    figure, panels = new_grid(f"curve-{name}", len(labels), columns, 1.75)
    for axes, label in zip(panels, labels, strict=True):
        curve, colour = curves[label], looks[label].light
        low, quarter, middle, three_quarters, high = curve.quantiles
        axes.fill_between(curve.updates, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.fill_between(curve.updates, quarter, three_quarters, color=colour, alpha=0.26, linewidth=0)
        axes.plot(curve.updates, middle, color=colour, linewidth=1.7)
        axes.set_title(f"{shorten(label)}  (n = {curve.pairs.max()})", loc="left")
        axes.grid(axis="y")
        axes.grid(visible=False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels[::columns]:
        axes.set_ylabel(unit)
    for axes in panels[-columns:]:
        axes.set_xlabel("update", color=SOFT)
    ends = "; ".join(f"{label} {curves[label].quantiles[2][-1]:.3g}" for label in labels)
    return figure.done(
        title,
        "Line: median over pairs; bands: middle half and middle 80 %. Updates are those of each method: latent "
        "updates, after the candidates where there was a search; denoising steps of clip_guidance; candidates of the "
        "searches.",
        f"{title}, per method. Medians at the end: {ends}.",
    )
