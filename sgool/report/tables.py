"""The report's tables for papers and issues: ``tables.md``, ``tables.tex`` and ``results.csv``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sgool.report.format import number, p_value, show, show_difference, show_interval
from sgool.report.metrics import Metric
from sgool.report.summary import CategoryRow, DatasetRows, MethodRow

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--",
    "\N{NARROW NO-BREAK SPACE}": r"\,", "\N{NO-BREAK SPACE}": "~", "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\n": " ", "\t": " ",
}  # fmt: skip
_LATEX_UNSAFE = re.compile("|".join(map(re.escape, _LATEX)))
_MARKDOWN_UNSAFE = re.compile(r"([\\`*_{}\[\]<>#|~$])")


@dataclass(frozen=True)
class Table:
    """A table as text: the first column is the row's name, the others are numbers."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def all_tables(
    datasets: Sequence[DatasetRows], categories: Sequence[CategoryRow], metrics: Sequence[Metric]
) -> list[Table]:
    """Means per data set and method, paired differences, costs, then categories."""
    tables = []
    for dataset in datasets:
        where = f"{dataset.dataset}, {_pairs(dataset.pairs)}"
        if metrics:
            tables.append(_means(where, dataset.methods, metrics))
        tables += [_differences(where, dataset.methods, metric, at) for at, metric in enumerate(metrics)]
        tables.append(_costs(where, dataset.methods))
    shown = [(at, metric) for at, metric in enumerate(metrics) if categories]
    return tables + [_categories(categories, metric, at) for at, metric in shown]


def to_markdown(title: str, tables: Sequence[Table]) -> str:
    """``tables.md``: GitHub's tables; untrusted text is escaped."""
    lines = [f"# {escape_markdown(title)}", ""]
    for table in tables:
        lines += [f"## {escape_markdown(table.title)}", ""]
        lines.append("| " + " | ".join(map(escape_markdown, table.head)) + " |")
        lines.append("|" + " --- |" + " ---: |" * (len(table.head) - 1))
        lines += ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in table.rows]
        lines += ["", *([escape_markdown(table.note), ""] if table.note else [])]
    return "\n".join(lines)


def to_latex(tables: Sequence[Table]) -> str:
    """``tables.tex``: one ``table`` each, to be included in a document with ``booktabs`` and a UTF-8 engine."""
    lines = [r"% Needs \usepackage{booktabs}, and \usepackage{textcomp} with older LaTeX. Made by sgool report."]
    for table in tables:
        caption = escape_latex(f"{table.title}. {table.note}".strip())
        lines += ["", r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
        lines.append(rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}")
        lines += [r"\toprule", _latex_row(table.head), r"\midrule"]
        lines += [_latex_row(row) for row in table.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def results_csv(frame: pd.DataFrame, names: Sequence[str]) -> str:
    """``results.csv``: one row per run, method and pair, with all metrics; NaN is empty.

    Args:
        frame: From ``to_frame``.
        names: The runs' names.
    """
    table = frame.drop(columns=["folder"])
    table["run"] = [names[position] for position in frame["run"]]
    return table.to_csv(index=False, lineterminator="\n")


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return _LATEX_UNSAFE.sub(lambda found: _LATEX[found[0]], text)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN_UNSAFE.sub(r"\\\1", " ".join(text.split()) if "\n" in text else text)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


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


def _differences(where: str, methods: Sequence[MethodRow], metric: Metric, at: int) -> Table:
    rows = []
    for row in methods:
        found = row.cells[at].difference
        if found is None or not found.pairs:
            continue
        tally = f"{found.wins} / {found.draws} / {found.losses}"
        change = show_difference(found.difference, metric)
        interval = show_interval(found, metric)
        against = f"{row.label} against {row.against}"
        counts = (number(found.pairs, 0), number(found.prompts, 0))
        rows.append((against, *counts, change, interval, tally, p_value(found.p_value)))
    outcome = "Better / equal / worse" if metric.direction else "Higher / equal / lower"
    return Table(
        f"{metric.name}: paired differences on {where}",
        ("Method", "Pairs", "Prompts", "Difference", "95 % interval", outcome, "Wilcoxon p"),
        tuple(rows),
        "Interval: percentile bootstrap over prompts. p: Wilcoxon signed-rank test on prompts' means, draws left out.",
    )


def _costs(where: str, methods: Sequence[MethodRow]) -> Table:
    rows = [
        (row.label, number(row.pairs, 0), number(row.network_evaluations, 0), number(row.seconds, 1)) for row in methods
    ]
    return Table(f"Cost of a pair on {where}", ("Method", "Pairs", "Network calls", "Seconds"), tuple(rows))


def _categories(categories: Sequence[CategoryRow], metric: Metric, at: int) -> Table:
    def cell(row: MethodRow) -> str:
        found = row.cells[at]
        text = show(found.final, metric)
        if found.difference is None or not found.difference.pairs:
            return text
        return f"{text} ({show_difference(found.difference.difference, metric)})"

    labels = [row.label for row in categories[0].methods]
    rows = [(c.category, number(c.pairs, 0), *(cell(row) for row in c.methods)) for c in categories]
    return Table(
        f"{metric.name} per category",
        ("Category", "Pairs", *labels),
        tuple(rows),
        "Mean; in brackets the mean paired difference.",
    )


def _pairs(count: int) -> str:
    return f"{count} pair" if count == 1 else f"{count} pairs"


def _of(count: int, all_pairs: int) -> str:
    return f" ({count})" if count != all_pairs else ""
