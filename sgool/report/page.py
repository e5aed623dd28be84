"""``sgool report``: makes a self-contained folder with ``index.html``, which opens from disk without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sgool.report import format as text
from sgool.report.canvas import Drawn, for_page, style
from sgool.report.curves import curve_figures
from sgool.report.examples import make_examples
from sgool.report.figures import score_figures
from sgool.report.gallery import make_gallery, to_script
from sgool.report.history import read_histories
from sgool.report.latex import to_latex
from sgool.report.load import Run, baseline_labels, compared_with, load_runs, to_frame
from sgool.report.metrics import Metric, shown_metrics
from sgool.report.output import MARK, report_folder
from sgool.report.palette import COLOURS, Look, method_looks
from sgool.report.problems import differing_settings, find_problems
from sgool.report.provenance import caveats, describe_run, facts
from sgool.report.source import Source
from sgool.report.summary import Comparison, category_rows, compare, statement_rows
from sgool.report.tables import Table, all_tables, results_csv, score_table, to_markdown

_SCRIPTS = ("state.js", "values.js", "cells.js", "gallery.js", "viewer.js", "keys.js")
_WITHOUT_SCRIPT = 60
"""How many pairs a browser without JavaScript shows."""


def build_report(runs: Sequence[str | Path], out: str | Path | None = None, against: Sequence[str] = ()) -> Path:
    """Make the report of one or more runs.

    Args:
        runs: Run folders.
        out: The report's folder; None: ``report/`` in the first run.
        against: Methods that the others are compared with; empty: vanilla. Tables and figures that show a single
            comparison show that with the first of them.

    Returns:
        The path of ``index.html``.

    Raises:
        SgoolError: A path is no run folder, there is no finished pair, no run has a method of ``against``, or the
            report's folder cannot be written.
    """
    loaded = load_runs(runs)
    names = compared_with(loaded, against)
    folder = loaded[0].folder.path / "report" if out is None else Path(out)
    with report_folder(folder, own=out is None) as new:
        write_report(loaded, new, names)
    return folder / "index.html"


def write_report(runs: Sequence[Run], folder: Path, against: Sequence[str]) -> None:
    """Write all of a report's files into a folder that has ``images/`` and ``figures/``, both empty."""
    frame = to_frame(runs)
    metrics = _metrics(runs, frame)
    histories = read_histories(frame)
    comparisons = [compare(frame, metrics, name, baseline_labels(runs, name)) for name in against]
    baselines = comparisons[0].baselines
    looks = method_looks(baselines)
    categories, statements = category_rows(frame, metrics, baselines), statement_rows(frame, baselines)
    with style():
        scores = score_figures(Source(frame, metrics, comparisons, looks))
        curves = curve_figures(histories, looks)
    figures = [*(drawn for found in scores.values() for drawn in found), *curves]
    tables = all_tables(comparisons, categories, statements, metrics)
    gallery = make_gallery(frame, metrics, baselines, folder / "images")
    has_overlay = any(cell and cell[2] for row in gallery.data["rows"] for cell in row[5])
    content = {
        "title": " + ".join(run.name for run in runs),
        "facts": _facts(runs, frame),
        "metrics": metrics,
        "examples": make_examples(frame, metrics, baselines, gallery.data, folder),
        "overall": comparisons[0].overall,
        "comparisons": comparisons,
        "panels": [_panel(metric, at, comparisons) for at, metric in enumerate(metrics)],
        "combined": score_table(comparisons[0], metrics),
        "categories": categories,
        "statements": statements,
        "figures": {drawn.name: FigureView(drawn, Markup(for_page(drawn))) for drawn in figures},
        "groups": _figure_groups(scores, curves, metrics),
        "problems": find_problems(runs, frame, metrics, histories, gallery.missing),
        "settings": differing_settings(runs),
        "caveats": caveats(runs, metrics, has_overlay),
        "runs": [describe_run(run) for run in runs],
        "checksum": _write_files(folder, runs, frame, tables, figures),
        "results": len(frame),
        "swatches": _swatches(looks),
        "plain_rows": gallery.data["rows"][:_WITHOUT_SCRIPT],
        "data": Markup(to_script(gallery.data | {"swatches": _swatches(looks)})),
    }
    page = _environment().get_template("index.html.j2").render(content)
    (folder / "index.html").write_text(page, encoding="utf-8")


def _metrics(runs: Sequence[Run], frame: pd.DataFrame) -> list[Metric]:
    made_by = [(config, run.networks) for run in runs for config in run.configs]
    # Where runs describe a metric differently, the first run counts.
    descriptions = {name: described for run in reversed(runs) for name, described in run.descriptions.items()}
    configs, networks = [config for config, _ in made_by], [record for _, record in made_by]
    found = shown_metrics(frame.columns, configs, descriptions, networks)
    return [text.with_fitting_digits(metric, frame.get(metric.key)) for metric in found]


def _write_files(
    folder: Path, runs: Sequence[Run], frame: pd.DataFrame, tables: Sequence[Table], figures: Sequence[Drawn]
) -> str:
    """Write everything but the page and its pictures; returns the checksum of ``results.csv``."""
    csv = results_csv(frame, [run.name for run in runs]).encode()
    (folder / "results.csv").write_bytes(csv)
    title = " + ".join(run.name for run in runs)
    (folder / "tables.md").write_text(to_markdown(title, tables), encoding="utf-8")
    (folder / "tables.tex").write_text(to_latex(tables), encoding="utf-8")
    for drawn in figures:
        (folder / "figures" / f"{drawn.name}.svg").write_text(drawn.svg, encoding="utf-8")
        (folder / "figures" / f"{drawn.name}.png").write_bytes(drawn.png)
    return hashlib.sha256(csv).hexdigest()


@dataclass(frozen=True)
class FigureView:
    """A figure as the page shows it."""

    drawn: Drawn
    svg: Markup


@dataclass(frozen=True)
class Panel:
    """A metric's table: its rows per data set, and the scale on which their intervals are drawn."""

    metric: Metric
    position: int
    low: float
    high: float

    def place(self, value: float) -> float:
        """Return a value's place on the scale, in per cent of its length."""
        return round(100.0 * (value - self.low) / (self.high - self.low), 2)


def _panel(metric: Metric, position: int, comparisons: Sequence[Comparison]) -> Panel:
    """Make a metric's panel, with a scale that holds zero and every interval."""
    found = [row for comparison in comparisons for dataset in comparison.datasets for row in dataset.methods]
    ends = [0.0]
    for difference in (row.cells[position].difference for row in found):
        if difference is not None and difference.pairs:
            ends += [difference.difference, difference.low or 0.0, difference.high or 0.0]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    return Panel(metric, position, min(ends) - margin, max(ends) + margin)


def _figure_groups(
    scores: Mapping[str, Sequence[Drawn]], curves: Sequence[Drawn], metrics: Sequence[Metric]
) -> list[tuple[str, list[str]]]:
    """Group the figures as (heading, names): one group per metric, then the curves."""
    named = [(metric.name, scores.get(metric.key, [])) for metric in metrics] + [("Over the updates", curves)]
    return [(heading, [drawn.name for drawn in found]) for heading, found in named if found]


def _swatches(looks: Mapping[str, Look]) -> dict[str, tuple[int, int]]:
    """Map labels to the numbers of their colour and their turn, which style.css draws."""
    return {label: (look.place, look.turn) for label, look in looks.items()}


def _facts(runs: Sequence[Run], frame: pd.DataFrame) -> dict[str, str]:
    shown = {
        "Pairs": text.number(frame["pair_id"].nunique(), 0),
        "Prompts": text.number(frame["prompt"].nunique(), 0),
        "Methods": text.number(frame["label"].nunique(), 0),
    }
    datasets = list(dict.fromkeys(frame["dataset"]))
    shown |= {"Data set" if len(datasets) == 1 else "Data sets": ", ".join(datasets)}
    return shown | facts(runs[0])


def _environment() -> Environment:
    # select_autoescape would look at the suffix: .j2 would switch escaping off.
    environment = Environment(
        loader=PackageLoader("sgool.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    names = ("number", "show", "show_difference", "show_interval", "verdict", "p_value")
    environment.filters |= {name: getattr(text, name) for name in names}
    templates = resources.files("sgool.report") / "templates"

    def read(name: str) -> str:  # our own files; only these, figures and data are not escaped
        return (templates / name).read_text(encoding="utf-8")

    script = "\n".join(read(name) for name in _SCRIPTS)
    early = read("theme.js")
    environment.globals |= {
        "mark": Markup(MARK),
        "style_css": Markup("\n".join(read(name) for name in ("style.css", "gallery.css", "examples.css"))),
        "colours": COLOURS,
        "script": Markup(f"\n{script}"),
        "early": Markup(f"\n{early}"),
        "hashes": [_hash(f"\n{early}"), _hash(f"\n{script}")],
    }
    return environment


def _hash(script: str) -> str:
    """Return the hash by which a content security policy names a script: the browser runs only such scripts."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
