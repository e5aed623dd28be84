"""Makes the rows of W&B's tables from a run folder."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sgool.types import PairRecord

_INITIAL = "_initial"
_IMAGES = ("before", "after", "saliency")


def scores(record: PairRecord) -> dict[str, float]:
    """Returns the metrics of the final image, and ``METRIC_gain`` where the initial image has the metric too."""
    metrics = record.metrics
    values = {name: value for name, value in metrics.items() if not name.endswith(_INITIAL)}
    pairs = [(name, metrics[name + _INITIAL]) for name in values if name + _INITIAL in metrics]
    return values | {f"{name}_gain": values[name] - before for name, before in pairs}


def pair_row(record: PairRecord, folder: Path, image_size: int | None) -> dict[str, Any]:
    """Makes a pair's row of the table of pairs.

    Args:
        record: The pair's record.
        folder: The pair's folder.
        image_size: Longest side of the images in pixels; None: the row has no images.
    """
    pictures = dict.fromkeys(_IMAGES) if image_size is None else _pictures(folder, image_size)
    return {
        "pair_id": record.pair_id,
        "prompt": record.prompt,
        "category": record.category,
        "seed": record.seed,
        "status": record.status,
        "error": record.error or "",
        **pictures,
        "best_step": record.best_step,
        "updates": record.num_optimization_steps,
        "network_evaluations": record.network_evaluations,
        "seconds": record.seconds,
        **dict(sorted(scores(record).items())),
    }


def _pictures(folder: Path, size: int) -> dict[str, Any]:
    """Makes W&B's images of a pair: initial, final, and final under its saliency map; None where one is missing."""
    import wandb

    from sgool.report.images import overlay, read_image

    found = {name: read_image(folder / f"{name}.png") for name in ("initial", "final", "saliency")}
    first, final, saliency = found["initial"], found["final"], found["saliency"]
    for picture in (first, final):
        if picture is not None:
            picture.thumbnail((size, size))
    looked = None if final is None or saliency is None else overlay(final.convert("RGB"), saliency)
    pictures = dict(zip(_IMAGES, (first, final, looked), strict=True))
    return {name: None if picture is None else wandb.Image(picture) for name, picture in pictures.items()}


def read_history(path: Path) -> list[dict[str, float]]:
    """Reads a pair's history; empty if there is no file."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]
    except FileNotFoundError:
        return []
    return rows


def as_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Makes a W&B table: columns in the order of their first use, and empty cells where a row lacks a column."""
    import wandb

    columns: list[str | int] = list(dict.fromkeys(name for row in rows for name in row))
    return wandb.Table(columns=columns, data=[[row.get(str(name)) for name in columns] for row in rows])
