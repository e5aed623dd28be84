"""What the report's tables say: per method, and per category and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from sgool.report.load import BASELINE
from sgool.report.metrics import Metric
from sgool.report.stats import PairedDifference, mean_or_none, paired_difference


@dataclass(frozen=True)
class MetricCell:
    """A method's values of a metric.

    Attributes:
        metric: Which.
        pairs: Pairs with a value.
        initial: Mean on the first images; None without values.
        final: Mean on the final images.
        difference: Against the row's ``against``; None for the baseline itself.
    """

    metric: Metric
    pairs: int
    initial: float | None
    final: float | None
    difference: PairedDifference | None


@dataclass(frozen=True)
class MethodRow:
    """A method's row of the summary table.

    Attributes:
        label: The method as the report calls it.
        against: What its differences are against; None for the baseline.
        pairs: Pairs that ended well.
        failed: Pairs that did not.
        cells: One per metric.
        network_evaluations: Mean per pair, or None.
        seconds: Mean per pair, or None.
    """

    label: str
    against: str | None
    pairs: int
    failed: int
    cells: tuple[MetricCell, ...]
    network_evaluations: float | None
    seconds: float | None


@dataclass(frozen=True)
class CategoryRow:
    """A category: how many pairs it has, and each method's row within it."""

    category: str
    pairs: int
    methods: tuple[MethodRow, ...]


FIRST_IMAGE = "its own first image"


def method_rows(frame: pd.DataFrame, metrics: Sequence[Metric], baselines: Mapping[str, str | None]) -> list[MethodRow]:
    """One row per label of ``baselines``, in its order.

    Args:
        frame: From ``to_frame``, or some rows of it.
        metrics: The columns.
        baselines: From ``baseline_labels``. A method without a vanilla run is compared with its own first images.
    """
    return [_method_row(frame, label, baseline, metrics) for label, baseline in baselines.items()]


def category_rows(
    frame: pd.DataFrame, metrics: Sequence[Metric], baselines: Mapping[str, str | None]
) -> list[CategoryRow]:
    """One row per category, in the order in which they appear; empty if no pair has a category."""
    if not frame["category"].astype(bool).any():
        return []
    rows = []
    for category, part in frame.groupby("category", sort=False):
        methods = method_rows(part, metrics, baselines)
        rows.append(CategoryRow(str(category) or "no category", part["pair_id"].nunique(), tuple(methods)))
    return rows


def _method_row(frame: pd.DataFrame, label: str, baseline: str | None, metrics: Sequence[Metric]) -> MethodRow:
    own = frame[frame["label"] == label]
    done = own[own["status"] == "done"].set_index("pair_id")
    is_baseline = bool((own["method"] == BASELINE).all()) and baseline is None
    reference = frame[(frame["label"] == baseline) & (frame["status"] == "done")].set_index("pair_id")
    cells = []
    for metric in metrics:
        values = _column(done, metric.key)
        difference = None
        if not is_baseline:
            others = _column(done, metric.initial) if baseline is None else _column(reference, metric.key)
            difference = paired_difference(values, others, done["prompt"])
        cells.append(
            MetricCell(
                metric,
                int(values.notna().sum()),
                mean_or_none(_column(done, metric.initial)),
                mean_or_none(values),
                difference,
            )
        )
    return MethodRow(
        label=label,
        against=None if is_baseline else baseline or FIRST_IMAGE,
        pairs=len(done),
        failed=len(own) - len(done),
        cells=tuple(cells),
        network_evaluations=mean_or_none(done["network_evaluations"]),
        seconds=mean_or_none(done["seconds"]),
    )


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    """The column, or NaN if no record has the metric."""
    if name in frame:
        return frame[name].astype("float64")
    return pd.Series(float("nan"), index=frame.index, dtype="float64")
