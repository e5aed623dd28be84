"""The rows of the gallery: one per pair, with each method's image, scores and where people look."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sgool.report.format import show, show_difference
from sgool.report.images import ImageStore
from sgool.report.load import Run
from sgool.report.metrics import INITIAL, Metric, scene_parts

_PREFERRED_LOOK = "sgool"


@dataclass(frozen=True)
class Score:
    """A metric under an image: its text, the gain's text and whether that is good, bad or neither (even)."""

    title: str
    text: str
    gain: str
    tone: str
    optimised: bool


@dataclass(frozen=True)
class Chip:
    """One answer of the scene reader: right or not, and whether that changed (``gained``, ``lost``, ``same``)."""

    name: str
    right: bool
    change: str


@dataclass(frozen=True)
class Cell:
    """One method's result for a pair.

    Attributes:
        label: The method.
        image: Address, or None (``note`` says why).
        overlay: Address of the image under its saliency map, or None.
        note: Error of a failed pair, or what is missing.
        failed: Whether the pair failed.
        scores: Under the image.
        chips: Under the scores.
        gain: Of the first metric, for sorting; None: no gain can be had.
    """

    label: str
    image: str | None = None
    overlay: str | None = None
    note: str = ""
    failed: bool = False
    scores: tuple[Score, ...] = ()
    chips: tuple[Chip, ...] = ()
    gain: float | None = None


@dataclass(frozen=True)
class GalleryRow:
    """A pair. ``look`` is the cell whose overlay stands in the column 'where people look', if any has one."""

    pair_id: str
    prompt: str
    category: str
    seed: int
    cells: tuple[Cell, ...]
    look: Cell | None


def gallery_rows(
    runs: Sequence[Run],
    frame: pd.DataFrame,
    metrics: Sequence[Metric],
    baselines: Mapping[str, str | None],
    store: ImageStore,
) -> list[GalleryRow]:
    """One row per pair id, sorted by it; copies the images into ``store``.

    Args:
        runs: The frame's runs.
        frame: From ``to_frame``.
        metrics: Shown under each image; the first gives the gain.
        baselines: From ``baseline_labels``; its order is the columns' order.
        store: Takes the images.
    """
    parts = scene_parts(frame.columns)
    rows = []
    for pair_id, group in frame.groupby("pair_id", sort=True):
        entries = {str(entry["label"]): entry for entry in group.to_dict("records")}
        cells = []
        for label, baseline in baselines.items():
            entry = entries.get(label)
            if entry is None:
                cells.append(Cell(label, note="not run"))
                continue
            folder = runs[entry["run"]].folder.pair_folder(entry["method"], str(pair_id))
            reference = _reference(entry, baseline, entries)
            cells.append(_cell(entry, reference, folder, metrics, parts, store))
        first = group.iloc[0]
        rows.append(
            GalleryRow(str(pair_id), first["prompt"], first["category"], int(first["seed"]), tuple(cells), _look(cells))
        )
    return rows


def _reference(entry: Mapping, baseline: str | None, entries: Mapping[str, Mapping]) -> dict[str, float] | None:
    """Metric -> the value that a gain is counted from: vanilla's, else the first image's; None: there is none."""
    if baseline is None:
        return {name.removesuffix(INITIAL): value for name, value in entry.items() if str(name).endswith(INITIAL)}
    other = entries.get(baseline)
    if other is None or other["status"] != "done":
        return None
    return dict(other)


def _cell(
    entry: Mapping,
    reference: Mapping[str, float] | None,
    folder: Path,
    metrics: Sequence[Metric],
    parts: Sequence[str],
    store: ImageStore,
) -> Cell:
    label = entry["label"]
    name = f"{entry['run']}-{entry['method']}-{entry['pair_id']}"
    image = store.add(folder / "final.png", name)
    if entry["status"] == "failed":  # shown with what there is
        image = image or store.add(folder / "initial.png", name)
        return Cell(label, image, note=entry["error"] or "failed without a reason", failed=True)
    note = "" if image else f"{folder.name}/final.png is missing or unreadable"
    overlay = store.add_overlay(folder / "final.png", folder / "saliency.png", f"{name}-look") if image else None
    gains = {metric.key: _gain(entry, reference, metric.key) for metric in metrics}
    scores = tuple(
        _score(metric, entry[metric.key], gains[metric.key]) for metric in metrics if not _absent(entry, metric.key)
    )
    chips = tuple(_chip(part, entry, reference) for part in parts if not _absent(entry, f"scene/{part}"))
    return Cell(label, image, overlay, note, False, scores, chips, gains[metrics[0].key] if metrics else None)


def _score(metric: Metric, value: float, gain: float | None) -> Score:
    text = "" if gain is None else show_difference(gain, metric)
    rounded = 0.0 if gain is None else round(gain * metric.scale, metric.digits)
    tone = "even" if metric.optimised or not rounded else "good" if rounded > 0 else "bad"
    return Score(metric.title, show(value, metric), text if rounded else "", tone, metric.optimised)


def _chip(part: str, entry: Mapping, reference: Mapping[str, float] | None) -> Chip:
    gain = _gain(entry, reference, f"scene/{part}") or 0.0
    change = "gained" if gain > 0.5 else "lost" if gain < -0.5 else "same"
    return Chip(part.replace("_", " "), entry[f"scene/{part}"] > 0.5, change)


def _gain(entry: Mapping, reference: Mapping[str, float] | None, key: str) -> float | None:
    if reference is None or _absent(entry, key) or _absent(reference, key):
        return None
    return float(entry[key]) - float(reference[key])


def _absent(values: Mapping, key: str) -> bool:
    value = values.get(key)
    return value is None or math.isnan(value)


def _look(cells: Sequence[Cell]) -> Cell | None:
    """The overlay of sgool, the method that uses saliency, if there is one; else the last method's."""
    shown = [cell for cell in cells if cell.overlay]
    preferred = [cell for cell in shown if cell.label.rpartition("/")[2] == _PREFERRED_LOOK]
    candidates = preferred or shown
    return candidates[-1] if candidates else None
