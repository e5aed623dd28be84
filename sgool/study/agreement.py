"""Fleiss' kappa: how far raters agree beyond what chance would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Agreement:
    """Agreement of several raters on nominal answers.

    Attributes:
        kappa: 1 for perfect agreement, 0 for that of chance; None if it is not defined (``note`` says why).
        observed: The share of couples of raters who agree, averaged over items; None without an item.
        expected: The share that chance would give, from how often each answer was given; None without an item.
        items: How many items have at least two ratings; only these count.
        ratings: How many ratings these items have.
        note: What a reader of kappa should know.
    """

    kappa: float | None
    observed: float | None
    expected: float | None
    items: int
    ratings: int
    note: str = ""


def fleiss_kappa(counts: ArrayLike) -> Agreement:
    """Compute Fleiss' kappa of a table of counts.

    Args:
        counts: (items, categories), how many raters gave an item each answer. Rows may have different sums: each
            item's agreement is then taken over its own raters (equal sums give Fleiss' own formula).

    Source: Fleiss, Measuring nominal scale agreement among many raters, Psychological Bulletin 76 (1971) 378-382.
    """
    table = np.asarray(counts, dtype=np.float64)
    table = table[table.sum(axis=1) >= 2] if table.ndim == 2 else table[:0]
    if not len(table):
        return Agreement(None, None, None, 0, 0, "no item has two raters")
    raters = table.sum(axis=1)
    agreeing = (table * (table - 1)).sum(axis=1) / (raters * (raters - 1))
    shares = table.sum(axis=0) / table.sum()
    observed, expected = float(agreeing.mean()), float((shares**2).sum())
    facts = (observed, expected, len(table), int(table.sum()))
    if expected > 1 - 1e-12:
        return Agreement(None, *facts, "not defined: everyone gave the same answer everywhere")
    unequal = raters.min() != raters.max()
    note = f"items have {int(raters.min())} to {int(raters.max())} raters" if unequal else ""
    return Agreement((observed - expected) / (1 - expected), *facts, note)
