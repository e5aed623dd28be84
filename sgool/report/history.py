"""Reads the histories of all pairs (``history.csv``) and summarises them as quantiles per method."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_FIRST = ("loss", "selection")
_LONGEST = 100_000  # rows of a history that are read


@dataclass(frozen=True)
class Curve:
    """A quantity over the updates of a method.

    Attributes:
        updates: (n,), the numbers of the updates.
        quantiles: (5, n), the ``QUANTILES`` over the pairs that have the update.
        pairs: (n,), how many pairs have the update.
    """

    updates: NDArray[np.int64]
    quantiles: NDArray[np.float64]
    pairs: NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """All curves of a report.

    Attributes:
        curves: Quantity -> method label -> curve. Quantities are ``loss``, ``selection`` and the histories' others.
        non_finite: (label, pair id, text) of numbers that were not finite.
        unreadable: (label, pair id) of histories that could not be read.
    """

    curves: Mapping[str, Mapping[str, Curve]]
    non_finite: tuple[tuple[str, str, str], ...]
    unreadable: tuple[tuple[str, str], ...]


def read_histories(frame: pd.DataFrame) -> Histories:
    """Read the histories of all pairs of a frame from ``to_frame``."""
    series: dict[str, dict[str, list[NDArray[np.float64]]]] = defaultdict(lambda: defaultdict(list))
    non_finite, unreadable = [], []
    for label, pair_id, folder in zip(frame["label"], frame["pair_id"], frame["folder"], strict=True):
        try:
            columns = read_history(Path(folder) / "history.csv")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, csv.Error):
            unreadable.append((label, pair_id))
            continue
        for name, values in columns.items():
            bad = np.flatnonzero(np.isinf(values))
            if len(bad) and name != "update":
                non_finite.append((label, pair_id, f"{name} is infinite at row {bad[0] + 1} of its history"))
            series[name][label].append(_lowest(values) if name == "selection" else values)
    names = [*_FIRST, *sorted(set(series) - {*_FIRST, "update"})]
    curves = {
        name: {label: _curve(found, hold=name == "selection") for label, found in series[name].items()}
        for name in names
        if name in series
    }
    return Histories(curves, tuple(non_finite), tuple(unreadable))


def read_history(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read a history: column -> (updates,) numbers; an empty cell is NaN.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no table of numbers.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream)
        names = next(rows, [])
        table = [[float(cell) if cell else math.nan for cell in row] for row in islice(rows, _LONGEST)]
    if any(len(row) != len(names) for row in table):
        raise ValueError(f"{path} has rows of different lengths")
    values = np.array(table, dtype=np.float64).reshape(len(table), len(names))
    return {name: values[:, position] for position, name in enumerate(names)}


def _lowest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lowest value so far: that of the image that would be kept if the run ended there."""
    return np.minimum.accumulate(np.where(np.isnan(values), np.inf, values)) if len(values) else values


def _curve(found: list[NDArray[np.float64]], hold: bool) -> Curve:
    """Summarise histories, whose row k is update k; with ``hold`` a pair that ended early keeps its last value."""
    longest = max(map(len, found))
    table = np.full((len(found), longest), np.nan)
    for row, values in zip(table, found, strict=True):
        row[: len(values)] = values
        if hold and len(values):
            row[len(values) :] = values[-1]
    table[~np.isfinite(table)] = np.nan
    kept = np.flatnonzero((~np.isnan(table)).any(axis=0))
    table = table[:, kept]
    quantiles = np.nanquantile(table, QUANTILES, axis=0) if len(kept) else np.empty((len(QUANTILES), 0))
    return Curve(kept, quantiles, (~np.isnan(table)).sum(axis=0))
