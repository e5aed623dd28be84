"""Curves over all pairs of a method: at each update the mean and the spread of what the pairs' histories hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

_QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def bands(histories: Iterable[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """Summarises the histories of pairs: a row per update with the mean and quantiles of each value over the pairs.

    Args:
        histories: The rows of each pair's history. A pair that was stopped counts up to its last update.

    Returns:
        Rows with ``curve/update``, ``curve/pairs`` (how many pairs have the update), ``curve/NAME/mean``, ``/p10``,
        ``/p50`` and ``/p90``.
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
