"""Means, paired differences and bootstrap intervals. The numbers of pairs always go with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sgool.report.metrics import INITIAL, shown_metrics
from sgool.types import PairRecord

CONFIDENCE = 0.95
RESAMPLES = 9999
FEWEST_GROUPS = 6
"""Prompts below which no interval is shown: with five, chance puts all differences on one side of zero in 6 % of cases
(2 / 2^5), and then the interval would leave out zero more often than its 5 %."""

DRAW = 1e-6
"""Differences up to this size are draws: float32 scores of equal images may differ in their last bits."""


@dataclass(frozen=True)
class PairedDifference:
    """A method against another on the pairs that both finished.

    Attributes:
        pairs: How many.
        difference: Mean of the pairs' differences (NaN without pairs).
        low: Lower end of the interval; None with fewer than ``FEWEST_GROUPS`` prompts.
        high: Upper end.
        wins: Pairs in which the method is better.
        draws: Pairs in which both are equal (within ``DRAW``).
        losses: Pairs in which it is worse.
    """

    pairs: int
    difference: float
    low: float | None
    high: float | None
    wins: int
    draws: int
    losses: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero and at least ``FEWEST_GROUPS`` pairs are no draws.

        The second matters for metrics of 0 and 1: with three wins and many draws the bootstrap leaves out zero, while
        a sign test of three against none has a p-value of 1/4.
        """
        if self.low is None or self.high is None or self.wins + self.losses < FEWEST_GROUPS:
            return False
        return self.low > 0 or self.high < 0


def paired_difference(values: pd.Series, others: pd.Series, groups: pd.Series | None = None) -> PairedDifference:
    """Compare two methods' values of a metric pair by pair.

    Args:
        values: Indexed by pair id, of the method; NaN does not count.
        others: The same of what it is compared with.
        groups: Indexed by pair id: pairs that belong together (seeds of one prompt), see ``bootstrap_interval``.

    Returns:
        Over the pairs that both have. Higher is better.
    """
    differences = (values - others.reindex(values.index)).dropna()
    labels = differences.index if groups is None else groups.reindex(differences.index)
    enough = labels.nunique() >= FEWEST_GROUPS
    interval = bootstrap_interval(differences.to_numpy(dtype=np.float64), labels.to_numpy()) if enough else None
    low, high = interval or (None, None)
    wins, losses = int((differences > DRAW).sum()), int((differences < -DRAW).sum())
    mean = float(differences.mean()) if len(differences) else math.nan
    return PairedDifference(len(differences), mean, low, high, wins, len(differences) - wins - losses, losses)


def bootstrap_interval(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean.

    Args:
        values: (n,).
        groups: (n,) labels; whole groups are drawn, since values within one are not independent. None: each value is
            a group.
        confidence: Between 0 and 1.
        resamples: Draws with replacement.
        seed: Of the draws, so that a page made twice shows the same numbers.

    Returns:
        Lower and upper end, or None with fewer than two groups.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    numbers = np.asarray(values, dtype=np.float64)
    owners = np.arange(len(numbers)) if groups is None else pd.factorize(np.asarray(groups))[0]
    count = len(np.unique(owners))
    if count < 2:
        return None
    sums = np.bincount(owners, weights=numbers, minlength=count).astype(np.float64)
    sizes = np.bincount(owners, minlength=count).astype(np.float64)
    means = _resampled_means(sums, sizes, resamples, np.random.default_rng(seed))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def mean_or_none(values: Sequence[float] | pd.Series) -> float | None:
    """The mean of the numbers that are not NaN, or None if there are none."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    return float(numbers.mean()) if len(numbers) else None


def summary_rows(records: Sequence[PairRecord]) -> list[dict[str, Any]]:
    """One row per method for the terminal's table, in the order in which the methods appear.

    Returns:
        Keys ``method``, ``pairs`` (finished well; the means are over these), ``failed``, ``judge`` (name of the first
        metric that is a judge's CLIP score and was not optimised), ``judge_initial``, ``judge_final`` (0 to 100),
        ``scene_pairs`` (those whose prompt has a scene), ``scene_initial``, ``scene_final`` (0 to 1),
        ``network_evaluations``, ``seconds`` (means per pair). None where no pair has a value.
    """
    names = {name for record in records for name in record.metrics}
    judges = [metric.key for metric in shown_metrics(names) if not metric.optimised and metric.key != "scene_accuracy"]
    judge = judges[0] if judges else None
    rows = []
    for method in dict.fromkeys(record.method for record in records):
        own = [record for record in records if record.method == method]
        done = [record for record in own if record.status == "done"]
        scene = _metric(done, "scene_accuracy")
        rows.append(
            {
                "method": method,
                "pairs": len(done),
                "failed": len(own) - len(done),
                "judge": judge,
                "judge_initial": mean_or_none(_metric(done, f"{judge}{INITIAL}")),
                "judge_final": mean_or_none(_metric(done, f"{judge}")),
                "scene_pairs": sum(not math.isnan(value) for value in scene),
                "scene_initial": mean_or_none(_metric(done, "scene_accuracy" + INITIAL)),
                "scene_final": mean_or_none(scene),
                "network_evaluations": mean_or_none([record.network_evaluations for record in done]),
                "seconds": mean_or_none([record.seconds for record in done]),
            }
        )
    return rows


def _metric(records: Sequence[PairRecord], name: str) -> list[float]:
    return [float(record.metrics.get(name, math.nan)) for record in records]


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """(resamples,) means of groups drawn with replacement, in blocks so that memory stays small."""
    block = max(1, 2_000_000 // len(sums))
    means = []
    for start in range(0, resamples, block):
        draws = generator.integers(0, len(sums), (min(block, resamples - start), len(sums)))
        means.append(sums[draws].sum(axis=1) / sizes[draws].sum(axis=1))
    return np.concatenate(means)
