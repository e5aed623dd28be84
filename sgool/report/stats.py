"""Means, paired differences and bootstrap intervals, each with its number of pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import PermutationMethod, wilcoxon

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
    """A comparison of two methods on the pairs that both finished.

    Attributes:
        pairs: How many pairs both finished.
        difference: The mean of the pairs' differences (NaN without pairs).
        low: The interval's lower end; None with fewer than ``FEWEST_GROUPS`` prompts.
        high: The interval's upper end.
        wins: How many pairs are better.
        draws: How many pairs are equal (within ``DRAW``).
        losses: How many pairs are worse.
        prompts: How many independent groups of pairs there are; the seeds of one prompt are one group.
        p_value: The p-value of the Wilcoxon signed-rank test, see ``signed_rank_p``.
    """

    pairs: int
    difference: float
    low: float | None
    high: float | None
    wins: int
    draws: int
    losses: int
    prompts: int = 0
    p_value: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero and at least ``FEWEST_GROUPS`` pairs are no draws.

        The second matters for metrics of 0 and 1: with three wins and many draws the bootstrap leaves out zero, while
        a sign test of three against none has a p-value of 1/4.
        """
        if self.low is None or self.high is None or self.wins + self.losses < FEWEST_GROUPS:
            return False
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class RelativeImprovement:
    """By how many per cent a mean is above the baseline's; no interval with fewer than ``FEWEST_GROUPS`` prompts."""

    pairs: int
    percent: float
    low: float | None
    high: float | None


def paired_difference(values: pd.Series, others: pd.Series, groups: pd.Series | None = None) -> PairedDifference:
    """Compare two methods' values of a metric pair by pair.

    Args:
        values: The method's values, indexed by pair id; NaN does not count.
        others: The values that they are compared with, indexed alike.
        groups: Labels of pairs that belong together (seeds of one prompt), indexed alike; see ``bootstrap_interval``.

    Returns:
        The comparison on the pairs that both have, where higher is better.
    """
    differences = (values - others.reindex(values.index)).dropna()
    labels = differences.index.to_series() if groups is None else groups.reindex(differences.index)
    enough = labels.nunique() >= FEWEST_GROUPS
    interval = bootstrap_interval(differences.to_numpy(dtype=np.float64), labels.to_numpy()) if enough else None
    low, high = interval or (None, None)
    wins, losses = int((differences > DRAW).sum()), int((differences < -DRAW).sum())
    mean = float(differences.mean()) if len(differences) else math.nan
    draws = len(differences) - wins - losses
    means = differences.groupby(labels.to_numpy()).mean()
    p_value = signed_rank_p(means.to_numpy(dtype=np.float64))
    return PairedDifference(len(differences), mean, low, high, wins, draws, losses, len(means), p_value)


def signed_rank_p(differences: ArrayLike) -> float | None:
    """Compute the two-sided p-value of the Wilcoxon signed-rank test that differences are symmetric about zero.

    Differences up to ``DRAW`` are zeros and are left out, as Wilcoxon did; equal sizes share their mean rank. The
    test is exact for up to 50 differences without equal sizes and for up to 13 with them (all patterns of signs). Else
    it is the normal approximation, corrected for equal sizes, without a correction for continuity.

    Args:
        differences: (n,), independent: one per prompt (the mean over its seeds).

    Returns:
        The p-value, or None with fewer than ``FEWEST_GROUPS`` differences other than zero.

    Source: Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1, 1945; computed by scipy.
    """
    numbers = np.asarray(differences, dtype=np.float64)
    numbers = numbers[np.abs(numbers) > DRAW]
    if len(numbers) < FEWEST_GROUPS:
        return None
    # Sizes that differ by rounding alone would be ranked by chance: 0.1 + 0.2 and 0.3 are equal here.
    numbers = np.round(numbers, 9)
    tied = len(np.unique(np.abs(numbers))) < len(numbers)
    method: Any = "exact" if len(numbers) <= 50 and not tied else "asymptotic"
    if tied and len(numbers) <= 13:
        method = PermutationMethod(n_resamples=2**13)  # at least 2^n: scipy then goes through all of them
    return float(wilcoxon(numbers, zero_method="wilcox", correction=False, method=method).pvalue)


def relative_improvement(values: pd.Series, others: pd.Series, groups: pd.Series) -> RelativeImprovement | None:
    """Compute by how many per cent the mean of ``values`` is above that of ``others``, over the pairs that both have.

    The arguments are those of ``paired_difference``. The interval is a percentile bootstrap over groups, of the
    ratio of means.

    Returns:
        The improvement; None without pairs, or if the other mean is not positive, since a ratio then says nothing.
    """
    both = pd.DataFrame({"value": values, "other": others.reindex(values.index)}).dropna()
    if both.empty or both["other"].mean() <= 0:
        return None
    owners, names = pd.factorize(groups.reindex(both.index))
    sums = [
        np.bincount(owners, weights=both[name].to_numpy(), minlength=len(names)).astype(np.float64)
        for name in ("value", "other")
    ]
    ratio = 100.0 * (sums[0].sum() / sums[1].sum() - 1.0)
    if len(names) < FEWEST_GROUPS:
        return RelativeImprovement(len(both), float(ratio), None, None)
    ratios = 100.0 * (_resampled_ratios(sums[0], sums[1], RESAMPLES, np.random.default_rng(0)) - 1.0)
    ratios = ratios[np.isfinite(ratios)]  # a draw of prompts that all score zero has none
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return RelativeImprovement(len(both), float(ratio), float(low), float(high))


def bootstrap_interval(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Compute the percentile bootstrap interval of a mean.

    Args:
        values: (n,).
        groups: (n,) labels; whole groups are drawn, since values within one are not independent. None: each value is
            a group.
        confidence: The interval's confidence, between 0 and 1.
        resamples: How often groups are drawn with replacement.
        seed: The seed of the draws, so that a page made twice shows the same numbers.

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
    means = _resampled_ratios(sums, sizes, resamples, np.random.default_rng(seed))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def mean_or_none(values: Sequence[float] | pd.Series) -> float | None:
    """Return the mean of the numbers that are not NaN, or None if there are none."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    return float(numbers.mean()) if len(numbers) else None


def summary_rows(
    records: Sequence[PairRecord],
    configs: Sequence[Mapping[str, Any]] = (),
    descriptions: Mapping[str, Mapping[str, Any]] | None = None,
    networks: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return a row per method for the terminal's table, in the order in which the methods appear.

    Args:
        records: The records of the methods to show.
        configs: The configurations that the records were made with: a judge that an objective used is not shown.
        descriptions: The run folder's descriptions of its metrics (`RunFolder.descriptions`).
        networks: The run folder's record of networks (`RunFolder.networks`).

    Returns:
        Keys ``method``, ``pairs`` (finished well; the means are over these), ``failed``, ``judge`` (name of the first
        judge's score, in a report's order, that was not optimised), ``judge_metric`` (the same as a `Metric`),
        ``judge_initial``, ``judge_final`` (in the score's own range, 0 to 100 for a CLIP score), ``scene_pairs``
        (those whose prompt has a scene), ``scene_initial``, ``scene_final`` (0 to 1), ``network_calls`` (forward and
        backward passes, as a budget counts them), ``seconds`` (means per pair). None where no pair has a value.
    """
    names = {name for record in records for name in record.metrics}
    judges = [
        metric
        for metric in shown_metrics(names, configs, descriptions, [networks or {}] * len(configs))
        if metric.judges and metric.key != "scene_accuracy" and not metric.key.startswith("guide/")
    ]
    shown = judges[0] if judges else None
    judge = shown.key if shown else None
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
                "judge_metric": shown,
                "judge_initial": mean_or_none(_metric(done, f"{judge}{INITIAL}")),
                "judge_final": mean_or_none(_metric(done, f"{judge}")),
                "scene_pairs": sum(not math.isnan(value) for value in scene),
                "scene_initial": mean_or_none(_metric(done, "scene_accuracy" + INITIAL)),
                "scene_final": mean_or_none(scene),
                "network_calls": mean_or_none(
                    [record.network_evaluations + record.network_backward_passes for record in done]
                ),
                "seconds": mean_or_none([record.seconds for record in done]),
            }
        )
    return rows


def _metric(records: Sequence[PairRecord], name: str) -> list[float]:
    return [float(record.metrics.get(name, math.nan)) for record in records]


def _resampled_ratios(
    above: NDArray[np.float64], below: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Draw groups with replacement and return the ratios (resamples,) of their sums, in blocks to save memory."""
    block = max(1, 2_000_000 // len(above))
    ratios = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, resamples, block):
            draws = generator.integers(0, len(above), (min(block, resamples - start), len(above)))
            ratios.append(above[draws].sum(axis=1) / below[draws].sum(axis=1))
    return np.concatenate(ratios)
