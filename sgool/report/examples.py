"""The examples at the top of a report: not the best pairs, but some at equal distances from best to worst."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from sgool.report import format as text
from sgool.report.canvas import style
from sgool.report.metrics import Metric
from sgool.report.saliency import UNKNOWN, Maps
from sgool.report.stats import DRAW

MOST = 6
"""The most pairs that are shown."""

_FILE, _FRAMES, _OVERLAY, _ASPECT = range(4)  # places in a gallery cell


@dataclass(frozen=True)
class Cell:
    """One picture of the examples, which is a frame of a strip.

    Attributes:
        file: The name of the strip's file in ``images/``; None: there is nothing to show.
        frames: How many frames the file holds.
        frame: The position of this picture among them.
        aspect: The frame's width by its height.
        value: The metric's value, as text.
        gain: The metric's gain, as text; empty if the picture is compared with nothing.
        tone: Whether the gain is ``better`` or ``worse``; empty if it is neither.
    """

    file: str | None
    frames: int = 1
    frame: int = 0
    aspect: float = 1.0
    value: str = ""
    gain: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Line:
    """A row of pictures: a method's final images, or with ``saliency`` its overlays, which show what ``maps`` says."""

    label: str
    saliency: bool
    cells: tuple[Cell, ...]
    maps: Maps = UNKNOWN


@dataclass(frozen=True)
class Examples:
    """The examples that a report shows.

    Attributes:
        metric: The metric by which the pairs are ordered.
        by_gain: Whether they are ordered by the metric's gain; else, if nothing gained or lost, by its value.
        pairs: How many pairs there were to choose from: those that the most methods finished.
        every: How many pairs the report has.
        ranks: The places of the chosen pairs in the order, from 1.
        prompts: The prompts of the chosen pairs.
        lines: Rows of pictures, each with a cell per chosen pair.
    """

    metric: Metric
    by_gain: bool
    pairs: int
    every: int
    ranks: tuple[int, ...]
    prompts: tuple[str, ...]
    lines: tuple[Line, ...]


def make_examples(
    frame: pd.DataFrame,
    metrics: Sequence[Metric],
    baselines: Mapping[str, str | None],
    data: Mapping[str, Any],
    folder: Path,
    maps: Mapping[str, Maps],
) -> Examples | None:
    """Chooses examples and writes them as ``figures/examples.png`` in the report's folder.

    Arguments and result are those of ``choose_examples``; ``folder`` is the report's folder.
    """
    examples = choose_examples(frame, metrics, baselines, data, maps)
    if examples:
        with style(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # glyphs that the font lacks are shown as boxes
            examples_png(examples, folder / "images", folder / "figures/examples.png")
    return examples


def choose_examples(
    frame: pd.DataFrame,
    metrics: Sequence[Metric],
    baselines: Mapping[str, str | None],
    data: Mapping[str, Any],
    maps: Mapping[str, Maps] = MappingProxyType({}),
) -> Examples | None:
    """Chooses pairs at equal distances in the order of their gain, averaged over the methods.

    Args:
        frame: From ``to_frame``.
        metrics: From ``shown_metrics``. The first that is evidence and has more than two values orders the pairs.
        baselines: From ``baseline_labels``.
        data: From ``gallery_data``.
        maps: From ``maps_by_label``: what each method's saliency maps show.

    Returns:
        The examples, or None if no pair has a gain and a picture.
    """
    metric = _ordering_metric(frame, metrics)
    if metric is None:
        return None
    gains = _gains(frame, metric, baselines)
    by_gain = bool((gains["gain"].abs() > DRAW).any())
    order = gains.groupby("pair_id")["gain" if by_gain else "score"].agg(["mean", "size"])
    order = order[order["size"] == order["size"].max()]
    # The sort is stable: equal gains stay in the order of their pair ids.
    order = order.sort_index().sort_values("mean", ascending=False, kind="stable")
    if order.empty:
        return None
    places = np.unique(np.linspace(0, len(order) - 1, min(MOST, len(order))).round().astype(int))
    rows = {row[0]: row for row in data["rows"]}
    chosen = [rows[order.index[place]] for place in places]
    known = gains.set_index(["label", "pair_id"])["gain"]
    lines = _lines(chosen, metric, list(metrics).index(metric), list(baselines), known, maps)
    if not any(cell.file for line in lines for cell in line.cells):
        return None
    ranks, prompts = tuple(int(place) + 1 for place in places), tuple(row[1] for row in chosen)
    return Examples(metric, by_gain, len(order), frame["pair_id"].nunique(), ranks, prompts, lines)


def _ordering_metric(frame: pd.DataFrame, metrics: Sequence[Metric]) -> Metric | None:
    """Picks the metric that orders the pairs: evidence before what was optimised, graded before yes or no."""
    ranked = [metric for metric in metrics if metric.direction]
    return min(ranked, key=lambda metric: (not metric.judges, frame[metric.key].nunique() <= 2), default=None)


def _gains(frame: pd.DataFrame, metric: Metric, baselines: Mapping[str, str | None]) -> pd.DataFrame:
    """Returns ``label``, ``pair_id``, ``score`` and ``gain`` (higher is better) of results that have a gain."""
    done = frame[frame["status"] == "done"].copy()
    values = done.set_index(["label", "pair_id"])[metric.key]
    bases = list(zip(done["label"].map(baselines), done["pair_id"], strict=True))
    if any(baselines.values()):
        before = values.reindex(pd.MultiIndex.from_tuples(bases, names=["label", "pair_id"])).to_numpy()
    else:
        before = done.get(metric.initial, pd.Series(np.nan, done.index)).to_numpy()
    done["score"] = done[metric.key] * metric.direction
    done["gain"] = done["score"] - before * metric.direction
    return done[["label", "pair_id", "score", "gain"]].dropna()


def _lines(
    chosen: Sequence[Sequence[Any]],
    metric: Metric,
    position: int,
    labels: Sequence[str],
    gains: pd.Series,
    maps: Mapping[str, Maps],
) -> tuple[Line, ...]:
    lines = []
    for at, label in enumerate(labels):
        cells = [(row[0], row[5][at]) for row in chosen]
        if any(cell and cell[_FILE] for _, cell in cells):
            shown = (_cell(cell, metric, position, gains.get((label, pair))) for pair, cell in cells)
            lines.append(Line(label, False, tuple(shown)))
    for at, label in reversed(list(enumerate(labels))):
        cells = [row[5][at] for row in chosen]
        if any(cell and cell[_OVERLAY] for cell in cells):
            return (*lines, Line(label, True, tuple(map(_overlay, cells)), maps.get(label, UNKNOWN)))
    return tuple(lines)


def _cell(cell: Sequence[Any] | None, metric: Metric, position: int, gain: float | None) -> Cell:
    if not cell or not cell[_FILE]:
        return Cell(None)
    count = len(cell[_FRAMES])
    shown = text.show(cell[4][position], metric)
    if gain is None:
        return Cell(cell[_FILE], count + cell[_OVERLAY], count - 1, cell[_ASPECT], shown)
    written = text.show_difference(gain * metric.direction, metric)
    even = not metric.judges or written == text.show_difference(0.0, metric)
    tone = "" if even else "better" if gain > 0 else "worse"
    return Cell(cell[_FILE], count + cell[_OVERLAY], count - 1, cell[_ASPECT], shown, written, tone)


def _overlay(cell: Sequence[Any] | None) -> Cell:
    if not cell or not cell[_OVERLAY]:
        return Cell(None)
    count = len(cell[_FRAMES])
    return Cell(cell[_FILE], count + 1, count, cell[_ASPECT])


def examples_png(examples: Examples, images: Path, target: Path) -> None:
    """Draws the examples as one image for a paper, with prompts above and methods at the left.

    Args:
        examples: From ``choose_examples``.
        images: The folder of the strips' files.
        target: The PNG file to write.
    """
    from matplotlib.figure import Figure

    rows, columns = len(examples.lines), len(examples.prompts)
    ratio = next(cell.aspect for line in examples.lines for cell in line.cells if cell.file)
    lines = [textwrap.wrap(prompt, 19, max_lines=5, placeholder=" …") for prompt in examples.prompts]
    labels = [
        "\n".join(textwrap.wrap(line.maps.shows, 14)) if line.saliency else textwrap.shorten(line.label, 40)
        for line in examples.lines
    ]
    longest = max(len(text) for label in labels for text in label.split("\n"))
    # In inches; a letter of 8.5 points is at most 0.08 wide on average.
    head, side, cell = 0.16 * max(map(len, lines)) + 0.08, max(0.95, 0.08 * longest + 0.15), 1.25
    width, height = side + columns * cell, head + rows * cell / ratio
    figure = Figure(figsize=(width, height))
    for at, wrapped in enumerate(lines):
        place = ((side + (at + 0.5) * cell) / width, 1 - (head - 0.07) / height)
        figure.text(*place, "\n".join(wrapped), size=8, ha="center", va="bottom", parse_math=False)
    for row, (line, label) in enumerate(zip(examples.lines, labels, strict=True)):
        bottom = 1 - (head + (row + 1) * cell / ratio) / height
        middle = bottom + cell / ratio / 2 / height
        figure.text((side - 0.1) / width, middle, label, size=8.5, ha="right", va="center", parse_math=False)
        for at, picture in enumerate(line.cells):
            box = ((side + at * cell + 0.03) / width, bottom + 0.03 / height, (cell - 0.06) / width)
            axes = figure.add_axes((*box, (cell / ratio - 0.06) / height))
            axes.axis("off")
            if picture.file:
                axes.imshow(_frame(images / picture.file, picture), aspect="equal", interpolation="antialiased")
    figure.savefig(target, dpi=200, facecolor="white", metadata={"Software": None})


def _frame(path: Path, cell: Cell) -> Image.Image:
    with Image.open(path) as strip:
        width = strip.width // cell.frames
        return strip.convert("RGB").crop((width * cell.frame, 0, width * (cell.frame + 1), strip.height))
