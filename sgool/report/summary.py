"""What the report's tables say: per method, and per category and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class DatasetRows:
    """A data set: how many pairs it has, and each method's row on it."""

    dataset: str
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


def dataset_rows(
    frame: pd.DataFrame, metrics: Sequence[Metric], baselines: Mapping[str, str | None]
) -> list[DatasetRows]:
    """One entry per data set, in the order in which they appear; methods that did not run on it are left out."""
    found = []
    for dataset, part in frame.groupby("dataset", sort=False):
        present = {label: baseline for label, baseline in baselines.items() if (part["label"] == label).any()}
        rows = method_rows(part, metrics, present)
        found.append(DatasetRows(str(dataset), part["pair_id"].nunique(), tuple(rows)))
    return found


def reference_values(frame: pd.DataFrame, done: pd.DataFrame, baseline: str | None, metric: Metric) -> pd.Series:
    """What a method's values are compared with, by pair: the baseline's, or those of its own first images."""
    if baseline is None:
        return column(done, metric.initial)
    return column(finished(frame, baseline), metric.key)


def finished(frame: pd.DataFrame, label: str) -> pd.DataFrame:
    """A method's pairs that ended well, indexed by pair id."""
    return frame[(frame["label"] == label) & (frame["status"] == "done")].set_index("pair_id")


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
    done = finished(frame, label)
    is_baseline = bool((own["method"] == BASELINE).all()) and baseline is None
    cells = []
    for metric in metrics:
        values = column(done, metric.key)
        difference = None
        if not is_baseline:
            difference = paired_difference(values, reference_values(frame, done, baseline, metric), done["prompt"])
            if metric.direction < 0:
                difference = replace(difference, wins=difference.losses, losses=difference.wins)
        cells.append(
            MetricCell(
                metric,
                int(values.notna().sum()),
                mean_or_none(column(done, metric.initial)),
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


def column(frame: pd.DataFrame, name: str) -> pd.Series:
    """The column, or NaN if no record has the metric."""
    if name in frame:
        return frame[name].astype("float64")
    return pd.Series(float("nan"), index=frame.index, dtype="float64")
