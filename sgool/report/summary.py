"""Summarises results for the report's tables: per method, and per category and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from sgool.report.load import OWN_FIRST
from sgool.report.metrics import SCENE, Metric, scene_parts
from sgool.report.stats import PairedDifference, mean_or_none, paired_difference


@dataclass(frozen=True)
class MetricCell:
    """A method's values of a metric.

    Attributes:
        metric: The metric.
        pairs: How many pairs have a value.
        initial: The mean on the first images; None without values.
        final: The mean on the final images; None without values.
        difference: The difference to the row's ``against``; None for the baseline itself.
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
        label: The method, as the report calls it.
        against: The method that it is compared with; None for the baseline itself. In a ``Comparison`` it also says
            which run a baseline is from, if that is another run: ``METHOD of RUN``.
        pairs: How many pairs ended well.
        failed: How many pairs failed.
        cells: A cell per metric.
        network_evaluations: The mean number of forward passes of a pair, recomputations included, or None.
        seconds: The mean time of a pair, or None.
        backward_passes: The mean number of backward passes of a pair, or None.
    """

    label: str
    against: str | None
    pairs: int
    failed: int
    cells: tuple[MetricCell, ...]
    network_evaluations: float | None
    seconds: float | None
    backward_passes: float | None = None

    @property
    def network_calls(self) -> float | None:
        """The mean number of network calls of a pair, backward passes included."""
        return None if self.network_evaluations is None else self.network_evaluations + (self.backward_passes or 0.0)


@dataclass(frozen=True)
class CategoryRow:
    """A category, or a kind of statement: how many pairs it has, and each method's row within it."""

    category: str
    pairs: int
    methods: tuple[MethodRow, ...]


@dataclass(frozen=True)
class DatasetRows:
    """A data set: how many pairs it has, and each method's row on it."""

    dataset: str
    pairs: int
    methods: tuple[MethodRow, ...]


@dataclass(frozen=True)
class Comparison:
    """The comparison of all methods with one of them.

    Attributes:
        name: The name of the method that the others are compared with, or ``FIRST_IMAGE``.
        baselines: Label -> label of its baseline, from ``baseline_labels``.
        overall: The methods' rows over all data sets.
        datasets: The methods' rows on each data set.
    """

    name: str
    baselines: Mapping[str, str | None]
    overall: tuple[MethodRow, ...]
    datasets: tuple[DatasetRows, ...]


FIRST_IMAGE = "its own first image"


def compare(
    frame: pd.DataFrame, metrics: Sequence[Metric], name: str, baselines: Mapping[str, str | None]
) -> Comparison:
    """Compare all methods with the method ``name``; ``baselines`` are ``baseline_labels(runs, name)``."""
    names = {label: _baseline_name(frame, label, baseline) for label, baseline in baselines.items() if baseline}

    def named(rows: Sequence[MethodRow]) -> tuple[MethodRow, ...]:
        return tuple(replace(row, against=names.get(row.label, row.against)) for row in rows)

    found = dataset_rows(frame, metrics, baselines)
    datasets = tuple(replace(dataset, methods=named(dataset.methods)) for dataset in found)
    # With one data set its rows are those over all; the intervals need not be computed twice.
    overall = datasets[0].methods if len(datasets) == 1 else named(method_rows(frame, metrics, baselines))
    return Comparison(FIRST_IMAGE if OWN_FIRST in baselines.values() else name, baselines, overall, datasets)


def method_rows(frame: pd.DataFrame, metrics: Sequence[Metric], baselines: Mapping[str, str | None]) -> list[MethodRow]:
    """Return a row per label of ``baselines``, in its order.

    Args:
        frame: From ``to_frame``, or some rows of it.
        metrics: The metrics that the rows have cells for.
        baselines: From ``baseline_labels``.
    """
    return [_method_row(frame, label, baseline, metrics) for label, baseline in baselines.items()]


def dataset_rows(
    frame: pd.DataFrame, metrics: Sequence[Metric], baselines: Mapping[str, str | None]
) -> list[DatasetRows]:
    """Return the rows on each data set, in order of appearance, without the methods that did not run on it."""
    found = []
    for dataset, part in frame.groupby("dataset", sort=False):
        present = {label: baseline for label, baseline in baselines.items() if (part["label"] == label).any()}
        rows = method_rows(part, metrics, present)
        found.append(DatasetRows(str(dataset), part["pair_id"].nunique(), tuple(rows)))
    return found


def reference_values(frame: pd.DataFrame, done: pd.DataFrame, baseline: str | None, metric: Metric) -> pd.Series:
    """Return by pair what a method's values are compared with: the baseline's, or those of its own first images."""
    if not baseline:
        return column(done, metric.initial)
    return column(finished(frame, baseline), metric.key)


def finished(frame: pd.DataFrame, label: str) -> pd.DataFrame:
    """Return a method's pairs that ended well, indexed by pair id."""
    return frame[(frame["label"] == label) & (frame["status"] == "done")].set_index("pair_id")


def category_rows(
    frame: pd.DataFrame, metrics: Sequence[Metric], baselines: Mapping[str, str | None]
) -> list[CategoryRow]:
    """Return a row per category, in the order in which they appear; empty if no pair has a category."""
    if not frame["category"].astype(bool).any():
        return []
    rows = []
    for category, part in frame.groupby("category", sort=False):
        methods = method_rows(part, metrics, baselines)
        rows.append(CategoryRow(str(category) or "no category", part["pair_id"].nunique(), tuple(methods)))
    return rows


def statement_rows(frame: pd.DataFrame, baselines: Mapping[str, str | None]) -> list[CategoryRow]:
    """Return a row per kind of statement that the scene reader checks: the share of pairs in which it is right.

    The pairs of a row are those whose prompts make such a statement; its methods have one cell each.
    """
    rows = []
    for part in scene_parts(frame.columns):
        metric = replace(SCENE, key=f"scene/{part}")
        said = frame[column(frame, metric.key).notna()]
        if len(said):
            found = method_rows(said, [metric], baselines)
            rows.append(CategoryRow(part.replace("_", " "), said["pair_id"].nunique(), tuple(found)))
    return rows


def _baseline_name(frame: pd.DataFrame, label: str, baseline: str) -> str:
    """Return the baseline's label, with its run if that is another run than the method's."""
    done, others = finished(frame, label), finished(frame, baseline)
    both = done.index.intersection(others.index)
    if both.empty or (done.loc[both, "run"] == others.loc[both, "run"]).any():
        return baseline
    first = others.loc[both[0]]
    if baseline != first["method"]:  # RUN/METHOD
        return baseline
    # Only the labels of methods that several runs have name the run.
    names = frame.loc[(frame["run"] == first["run"]) & (frame["label"] != frame["method"]), ["label", "method"]]
    if names.empty:
        return f"{baseline} of another run"
    return f"{baseline} of {names['label'].iloc[0].removesuffix('/' + names['method'].iloc[0])}"


def _method_row(frame: pd.DataFrame, label: str, baseline: str | None, metrics: Sequence[Metric]) -> MethodRow:
    own = frame[frame["label"] == label]
    done = finished(frame, label)
    cells = []
    for metric in metrics:
        values = column(done, metric.key)
        difference = None
        if baseline is not None:
            difference = paired_difference(values, reference_values(frame, done, baseline, metric), done["group"])
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
        against=None if baseline is None else baseline or FIRST_IMAGE,
        pairs=len(done),
        failed=len(own) - len(done),
        cells=tuple(cells),
        network_evaluations=mean_or_none(done["network_evaluations"]),
        seconds=mean_or_none(done["seconds"]),
        backward_passes=mean_or_none(column(done, "network_backward_passes")),
    )


def column(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return the column of a metric, or NaN if no record has the metric."""
    if name in frame:
        return frame[name].astype("float64")
    return pd.Series(float("nan"), index=frame.index, dtype="float64")
