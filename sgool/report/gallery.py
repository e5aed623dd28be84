"""The data of the gallery: a row per pair, with each method's pictures and scores. The page's script shows them."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sgool.report.images import LARGE_SIDE, MANY, SIDE, Strip, make_strip
from sgool.report.metrics import Metric, scene_parts
from sgool.report.saliency import found_phrases

_LONGEST_ERROR = 600
_DIGITS = 7
Key = tuple[str, str]


@dataclass(frozen=True)
class Gallery:
    """The gallery: what the page needs to show pairs.

    Attributes:
        data: The data for the page's script; ``gallery_data`` describes its form.
        missing: (label, pair id, text) of pictures that are missing or cannot be read.
    """

    data: dict[str, Any]
    missing: tuple[tuple[str, str, str], ...]


def make_gallery(
    frame: pd.DataFrame, metrics: Sequence[Metric], baselines: Mapping[str, str | None], images: Path
) -> Gallery:
    """Write the gallery's pictures and return the data of every pair.

    Args:
        frame: From ``to_frame``.
        metrics: The metrics that are shown under each image.
        baselines: From ``baseline_labels``; its order is the order of the columns.
        images: An empty folder for the pictures.
    """
    strips = _make_strips(frame, images)
    missing = tuple((label, pair, text) for (label, pair), strip in strips.items() for text in strip.missing)
    return Gallery(gallery_data(frame, metrics, baselines, strips), missing)


def gallery_data(
    frame: pd.DataFrame, metrics: Sequence[Metric], baselines: Mapping[str, str | None], strips: Mapping[Key, Strip]
) -> dict[str, Any]:
    """Return the gallery's data, as lists rather than mappings, since there may be thousands of rows.

    Returns:
        ``methods``: [label, position of its baseline or null]. ``metrics``: mappings. ``parts``: the scene reader's
        answers. ``categories``, ``datasets``: names, to which rows give a position. ``rows``: [pair id, prompt,
        category, dataset, seed, cells]; a cell is null (not run) or [file, frames, overlay, aspect, values, first
        values, answers, first answers, error, calls, seconds], and where regions were matched with phrases
        [[phrase, distance, box], ...] of `sgool.report.saliency.found_phrases`; of videos these or null, and the
        name of the animation.
    """
    labels = list(baselines)
    parts = scene_parts(frame.columns)
    categories = list(dict.fromkeys(frame["category"]))
    datasets = list(dict.fromkeys(frame["dataset"]))
    groups: dict[str, dict[str, dict]] = defaultdict(dict)
    for entry in frame.to_dict("records"):
        groups[entry["pair_id"]][entry["label"]] = entry
    rows = []
    for pair_id, entries in sorted(groups.items()):
        first = next(iter(entries.values()))
        cells = [
            _cell(entries[label], strips[label, pair_id], metrics, parts) if label in entries else None
            for label in labels
        ]
        place = [categories.index(first["category"]), datasets.index(first["dataset"])]
        rows.append([pair_id, first["prompt"] or first["group"], *place, int(first["seed"]), cells])
    return {
        "methods": [[label, labels.index(base) if base else None] for label, base in baselines.items()],
        "metrics": [_describe(metric) for metric in metrics],
        "parts": [part.replace("_", " ") for part in parts],
        "categories": categories,
        "datasets": datasets,
        "rows": rows,
    }


def to_script(data: Mapping[str, Any]) -> str:
    """Return JSON that may stand in a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _make_strips(frame: pd.DataFrame, images: Path) -> dict[Key, Strip]:
    """Write the pictures of all results in threads, since Pillow works outside Python's lock; by label and pair id."""
    labels = {label: position for position, label in enumerate(dict.fromkeys(frame["label"]))}
    pairs = {pair: position for position, pair in enumerate(sorted(frame["pair_id"].unique()))}
    side = SIDE if len(frame) > MANY else LARGE_SIDE
    columns = (frame["label"], frame["pair_id"], frame["folder"], frame["status"])
    jobs = list(zip(*columns, strict=True))

    def make(job: tuple[str, str, str, str]) -> Strip:
        label, pair, folder, status = job
        # Files have numbers: names may hold what a file system or an address cannot.
        target = images / f"{pairs[pair]:05d}-{labels[label]}.webp"
        return make_strip(Path(folder), target, side, failed=status == "failed")

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return {(label, pair): strip for (label, pair, *_), strip in zip(jobs, pool.map(make, jobs), strict=True)}


def _cell(entry: Mapping[str, Any], strip: Strip, metrics: Sequence[Metric], parts: Sequence[str]) -> list[Any]:
    failed = entry["status"] == "failed"
    error = (entry["error"] or "failed without a reason")[:_LONGEST_ERROR] if failed else "; ".join(strip.missing)
    return [
        strip.file,
        list(strip.frames),
        int(strip.overlay),
        strip.aspect,
        [_number(entry.get(metric.key)) for metric in metrics],
        [_number(entry.get(metric.initial)) for metric in metrics],
        _answers(entry, parts, ""),
        _answers(entry, parts, "_initial"),
        [int(failed), error],
        int(entry["network_evaluations"]),
        _number(entry["seconds"]),
        *_optional(entry, strip),
    ]


def _optional(entry: Mapping[str, Any], strip: Strip) -> list[Any]:
    """Return a cell's last entries, as far as there are any: phrases, and the name of a video's animation."""
    phrases = found_phrases(entry["phrases"], strip.size) if entry.get("phrases") else None
    found = [phrases, strip.animation]
    return found if strip.animation else found[: phrases is not None]


def _answers(entry: Mapping[str, Any], parts: Sequence[str], end: str) -> str:
    """Return a character per part: 1 if it is right, 0 if wrong, a hyphen if the prompt says nothing of it."""
    values = [entry.get(f"scene/{part}{end}") for part in parts]
    return "".join("-" if value is None or math.isnan(value) else "01"[value > 0.5] for value in values)


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), _DIGITS)


def _describe(metric: Metric) -> dict[str, Any]:
    return {
        "key": metric.key,
        "title": metric.title,
        "scale": metric.scale,
        "unit": metric.unit,
        "differenceUnit": metric.difference_unit,
        "digits": metric.digits if metric.scale == 1.0 else 0,  # a single pair has 0 or 100 %
        "optimised": metric.optimised,
        "direction": metric.direction,
    }
