"""``sgool report``: makes a self-contained folder with ``index.html``, which opens from disk without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sgool.report import format as text
from sgool.report.canvas import Drawn, for_page, style
from sgool.report.curves import curve_figures
from sgool.report.examples import make_examples
from sgool.report.figures import score_figures
from sgool.report.gallery import make_gallery, to_script
from sgool.report.history import Histories, read_histories
from sgool.report.latex import to_latex
from sgool.report.load import Run, baseline_labels, compared_with, load_runs, to_frame
from sgool.report.metrics import Metric, shown_metrics
from sgool.report.output import MARK, report_folder
from sgool.report.palette import COLOURS, Look, method_looks
from sgool.report.panel import make_panel
from sgool.report.problems import differing_settings, find_problems
from sgool.report.provenance import caveats, describe_run, facts
from sgool.report.saliency import Maps, maps_by_label, together
from sgool.report.source import Source
from sgool.report.summary import category_rows, compare, statement_rows
from sgool.report.tables import Table, all_tables, results_csv, score_table, to_markdown

_SCRIPTS = ("state.js", "values.js", "cells.js", "gallery.js", "viewer.js", "keys.js", "page.js")
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
    scores, curves = _draw(Source(frame, metrics, comparisons, looks), histories)
    figures = [*(drawn for found in scores.values() for drawn in found), *curves]
    tables = all_tables(comparisons, categories, statements, metrics)
    gallery = make_gallery(frame, metrics, baselines, folder / "images")
    maps = maps_by_label(runs)
    overlays = _overlays(gallery.data, maps)
    content = {
        "title": " + ".join(run.name for run in runs),
        "facts": _facts(runs, frame),
        "metrics": metrics,
        "examples": make_examples(frame, metrics, baselines, gallery.data, folder, maps),
        "overall": comparisons[0].overall,
        "comparisons": comparisons,
        "panels": [make_panel(metric, at, comparisons) for at, metric in enumerate(metrics)],
        "combined": score_table(comparisons[0], metrics),
        "categories": categories,
        "statements": statements,
        "figures": {drawn.name: FigureView(drawn, Markup(for_page(drawn))) for drawn in figures},
        "groups": _figure_groups(scores, curves, metrics),
        "problems": find_problems(runs, frame, metrics, histories, gallery.missing),
        "settings": differing_settings(runs),
        "caveats": caveats(runs, metrics, overlays),
        "maps": together(overlays),
        "runs": [describe_run(run) for run in runs],
        "checksum": _write_files(folder, runs, frame, tables, figures),
        "results": len(frame),
        "swatches": _swatches(looks),
        "plain_rows": gallery.data["rows"][:_WITHOUT_SCRIPT],
        "data": _script_data(gallery.data, looks, maps),
    }
    page = _environment().get_template("index.html.j2").render(content)
    (folder / "index.html").write_text(page, encoding="utf-8")


def _draw(source: Source, histories: Histories) -> tuple[dict[str, list[Drawn]], list[Drawn]]:
    """Draw the figures of each metric, by its key, and the curves."""
    with style():
        return score_figures(source), curve_figures(histories, source.looks)


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


def _overlays(data: Mapping[str, Any], maps: Mapping[str, Maps]) -> list[Maps]:
    """Return what the saliency overlays show, of each method that has some in the gallery."""
    labels = [label for label, _ in data["methods"]]
    return [maps[label] for at, label in enumerate(labels) if any(row[5][at] and row[5][at][2] for row in data["rows"])]


def _script_data(data: Mapping[str, Any], looks: Mapping[str, Look], maps: Mapping[str, Maps]) -> Markup:
    """Return the data of the page's script: that of the gallery, and each method's looks and maps."""
    titles = [maps[label].title for label, _ in data["methods"]]
    return Markup(to_script({**data, "swatches": _swatches(looks), "maps": titles}))


@dataclass(frozen=True)
class FigureGroup:
    """Figures that are folded away together: their heading, their names, and a line that says what they show."""

    heading: str
    names: tuple[str, ...]
    about: str


def _figure_groups(
    scores: Mapping[str, Sequence[Drawn]], curves: Sequence[Drawn], metrics: Sequence[Metric]
) -> list[FigureGroup]:
    """Group the figures: one group per metric, then the curves."""
    named = [(metric.name, scores.get(metric.key, [])) for metric in metrics] + [("Over the updates", curves)]
    groups = []
    for heading, found in named:
        # The heading has the metric's name already.
        titles = [drawn.title.replace(heading, "").strip(": ").lower() for drawn in found]
        groups.append(FigureGroup(heading, tuple(drawn.name for drawn in found), ", ".join(titles)))
    return [group for group in groups if group.names]


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
