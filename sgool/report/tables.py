"""Makes the report's tables, and writes them as ``tables.md`` and ``results.csv``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sgool.report.format import number, p_value, show, show_difference, show_interval
from sgool.report.metrics import SCENE, Metric
from sgool.report.summary import CategoryRow, Comparison, MethodRow

_MARKDOWN_UNSAFE = re.compile(r"([\\`*_{}\[\]<>#|~$])")


@dataclass(frozen=True)
class Table:
    """A table as text: the first column is the row's name, the others are numbers.

    ``spans`` are names that stand above the head, each with its number of columns; ``head`` does not repeat them.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    spans: tuple[tuple[str, int], ...] = ()


def all_tables(
    comparisons: Sequence[Comparison],
    categories: Sequence[CategoryRow],
    statements: Sequence[CategoryRow],
    metrics: Sequence[Metric],
) -> list[Table]:
    """Make all tables of a report.

    They are: scores over all data sets, if there are several; means, differences and costs on each data set; scene
    accuracy by statement; scores by category.
    """
    combined = score_table(comparisons[0], metrics)
    tables = [combined] if combined else []
    for at_set, dataset in enumerate(comparisons[0].datasets):
        where = f"{dataset.dataset}, {_pairs(dataset.pairs)}"
        if metrics:
            tables.append(_means(where, dataset.methods, metrics))
        for at, metric in enumerate(metrics):
            found = [_differences(where, each.name, each.datasets[at_set].methods, metric, at) for each in comparisons]
            tables += [table for table in found if table.rows]
        tables.append(_costs(where, dataset.methods))
    if statements:
        tables.append(_by_row("Scene accuracy by statement", "Statement", statements, comparisons[0], SCENE, 0))
    for at, metric in enumerate(metrics if categories else ()):
        tables.append(_by_row(f"{metric.name} per category", "Category", categories, comparisons[0], metric, at))
    return tables


def score_table(comparison: Comparison, metrics: Sequence[Metric]) -> Table | None:
    """Make the table of scores by data set: a row per method, and the judges' means on every data set as columns.

    Returns:
        The table; None if there is a single data set, or no judge.
    """
    judges = [(at, metric) for at, metric in enumerate(metrics) if metric.judges]
    if len(comparison.datasets) < 2 or not judges:
        return None
    rows = []
    for label in comparison.baselines:
        cells = []
        for dataset in comparison.datasets:
            row = next((row for row in dataset.methods if row.label == label), None)
            for at, metric in judges:
                cell = row.cells[at] if row else None
                cells.append(show(cell.final, metric) + _of(cell.pairs, dataset.pairs) if cell else show(None, metric))
        rows.append((label, *cells))
    titles = [metric.name for _, metric in judges]
    return Table(
        "Scores by data set and method",
        ("Method", *(titles * len(comparison.datasets))),
        tuple(rows),
        "Means over the pairs that have a value; a number in brackets is how many those are, where they are not all.",
        (("", 1), *((f"{each.dataset}, {_pairs(each.pairs)}", len(judges)) for each in comparison.datasets)),
    )


def to_markdown(title: str, tables: Sequence[Table]) -> str:
    """Return the text of ``tables.md``: tables as GitHub shows them, with all text escaped."""
    lines = [f"# {escape_markdown(title)}", ""]
    for table in tables:
        lines += [f"## {escape_markdown(table.title)}", ""]
        lines.append("| " + " | ".join(map(escape_markdown, _whole_head(table))) + " |")
        lines.append("|" + " --- |" + " ---: |" * (len(table.head) - 1))
        lines += ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in table.rows]
        lines += ["", *([escape_markdown(table.note), ""] if table.note else [])]
    return "\n".join(lines)


def results_csv(frame: pd.DataFrame, names: Sequence[str]) -> str:
    """Return the text of ``results.csv``: a row per run, method and pair, with all metrics; NaN is empty.

    Phrases have no column: they are no single value.

    Args:
        frame: From ``to_frame``.
        names: The runs' names.
    """
    table = frame.drop(columns=["folder", "group", "phrases"], errors="ignore")
    table["run"] = [names[position] for position in frame["run"]]
    return table.to_csv(index=False, lineterminator="\n")


def escape_markdown(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line."""
    return _MARKDOWN_UNSAFE.sub(r"\\\1", " ".join(text.split()) if text.splitlines() != [text] else text)


def _whole_head(table: Table) -> list[str]:
    """Return the head with the names above it in each of their columns: Markdown has no wider cells."""
    above = [text for text, width in table.spans for _ in range(width)] or [""] * len(table.head)
    return [f"{over}: {text}" if over else text for over, text in zip(above, table.head, strict=True)]


def _means(where: str, methods: Sequence[MethodRow], metrics: Sequence[Metric]) -> Table:
    rows = []
    for row in methods:
        cells = [show(cell.final, cell.metric) + _of(cell.pairs, row.pairs) for cell in row.cells]
        rows.append((row.label, number(row.pairs, 0), number(row.failed, 0), *cells))
    return Table(
        f"Mean scores on {where}",
        ("Method", "Pairs", "Failed", *(metric.name for metric in metrics)),
        tuple(rows),
        "Means over the pairs that ended well; a number in brackets is how many of them have a value.",
    )


def _differences(where: str, baseline: str, methods: Sequence[MethodRow], metric: Metric, at: int) -> Table:
    rows = []
    for row in methods:
        found = row.cells[at].difference
        if found is None or not found.pairs:
            continue
        tally = f"{found.wins} / {found.draws} / {found.losses}"
        change = show_difference(found.difference, metric)
        interval = show_interval(found, metric)
        counts = (number(found.pairs, 0), number(found.prompts, 0))
        rows.append((_compared(row, baseline), *counts, change, interval, tally, p_value(found.p_value)))
    outcome = "Better / equal / worse" if metric.direction else "Higher / equal / lower"
    return Table(
        f"{metric.name}: paired differences to {baseline} on {where}",
        ("Method", "Pairs", "Prompts", "Difference", "95 % interval", outcome, "Wilcoxon p"),
        tuple(rows),
        "Interval: percentile bootstrap over prompts. p: Wilcoxon signed-rank test on prompts' means, draws left out.",
    )


def _costs(where: str, methods: Sequence[MethodRow]) -> Table:
    rows = [
        (
            row.label,
            number(row.pairs, 0),
            number(row.network_evaluations, 0),
            number(row.backward_passes, 0),
            number(row.network_calls, 0),
            number(row.seconds, 1),
        )
        for row in methods
    ]
    heads = ("Method", "Pairs", "Forward passes", "Backward passes", "Network calls", "Seconds")
    return Table(f"Cost of a pair on {where}", heads, tuple(rows))


def _by_row(
    title: str, first: str, found: Sequence[CategoryRow], comparison: Comparison, metric: Metric, at: int
) -> Table:
    """Make a table of means and differences by category or statement, with numbers of pairs where they differ."""

    def cell(row: MethodRow, pairs: int) -> str:
        found = row.cells[at]
        text = show(found.final, metric) + (_of(found.pairs, pairs) if found.pairs else "")
        if found.difference is None or not found.difference.pairs:
            return text
        own = "" if found.difference.pairs == found.pairs else f", {_pairs(found.difference.pairs)}"
        return f"{text} ({show_difference(found.difference.difference, metric)}{own})"

    heads = [_compared(row, comparison.name) for row in comparison.overall]
    rows = [(each.category, number(each.pairs, 0), *(cell(row, each.pairs) for row in each.methods)) for each in found]
    whom = f" to {comparison.name}" if any(row.against for row in comparison.overall) else ""
    return Table(
        title,
        (first, "Pairs", *heads),
        tuple(rows),
        "Mean; a number in brackets is how many pairs have a value, where they are not all. In brackets with a sign: "
        f"the mean paired difference{whom}, with its number of pairs where that is not the mean's.",
    )


def _compared(row: MethodRow, baseline: str) -> str:
    """Return a method's name, with what it is compared with if that is not the ``baseline`` of the table."""
    return row.label if row.against in (None, baseline) else f"{row.label} against {row.against}"


def _pairs(count: int) -> str:
    return f"{count} pair" if count == 1 else f"{count} pairs"


def _of(count: int, all_pairs: int) -> str:
    return f" ({count})" if count != all_pairs else ""
