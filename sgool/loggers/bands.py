"""Curves over a whole method: at each update the mean over the pairs, and how far they spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

_QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def bands(histories: Iterable[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """A row an update: ``curve/update``, ``curve/pairs`` and, of each value, its mean and quantiles over the pairs.

    Args:
        histories: Of each pair, its rows. A pair that was stopped counts up to there.
    """
    values: dict[int, dict[str, list[float]]] = {}
    pairs: dict[int, int] = {}
    for history in histories:
        for row in history:
            update = int(row["update"])
            pairs[update] = pairs.get(update, 0) + 1
            for name, value in row.items():
                if name != "update":
                    values.setdefault(update, {}).setdefault(name, []).append(value)
    return [_band(update, pairs[update], values.get(update, {})) for update in sorted(pairs)]


def _band(update: int, pairs: int, values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    row: dict[str, float] = {"curve/update": update, "curve/pairs": pairs}
    for name, found in values.items():
        finite = np.asarray(found, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        if len(finite):
            row[f"curve/{name}/mean"] = float(finite.mean())
            spread = np.quantile(finite, list(_QUANTILES.values()))
            row |= {f"curve/{name}/{key}": float(value) for key, value in zip(_QUANTILES, spread, strict=True)}
    return row
