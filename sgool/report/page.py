"""``sgool report``: one self-contained folder with ``index.html``, opened from disk without a network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sgool.atomic import atomic_write, explain_os_errors
from sgool.report import format as text
from sgool.report.gallery import gallery_rows
from sgool.report.images import ImageStore
from sgool.report.load import Run, baseline_labels, load_runs, to_frame
from sgool.report.metrics import shown_metrics
from sgool.report.provenance import caveats, describe_run, facts
from sgool.report.summary import category_rows, method_rows


def build_report(runs: Sequence[str | Path]) -> Path:
    """Make the report page of one or more runs.

    Args:
        runs: Run folders. The report goes into ``report/`` of the first one; its ``images/`` is made anew.

    Returns:
        The path of ``index.html``.

    Raises:
        SgoolError: A path that is no run folder, no finished pair in any, or a report folder that cannot be written.
    """
    loaded = load_runs(runs)
    folder = loaded[0].folder.path / "report"
    with explain_os_errors(f"write the report to {folder}", "Make room or permissions there and run it again."):
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / "index.html"
        atomic_write(page, render(loaded, ImageStore(folder / "images")).encode())
    return page


def render(runs: Sequence[Run], store: ImageStore) -> str:
    """The page's HTML; everything that comes from prompts, errors and configurations is escaped."""
    return _environment().get_template("index.html.j2").render(_content(runs, store))


def _content(runs: Sequence[Run], store: ImageStore) -> dict[str, Any]:
    frame = to_frame(runs)
    baselines = baseline_labels(runs)
    metrics = shown_metrics(frame.columns, [run.config for run in runs])
    independent = [metric for metric in metrics if not metric.optimised]
    gallery = gallery_rows(runs, frame, independent + [m for m in metrics if m.optimised], baselines, store)
    has_overlay = any(row.look for row in gallery)
    methods = method_rows(frame, metrics, baselines)
    return {
        "title": " + ".join(run.name for run in runs),
        "facts": _facts(runs, frame),
        "metrics": metrics,
        "methods": methods,
        "highlights": [
            (row, cell)
            for row in methods
            for cell in row.cells
            if cell.difference and cell.difference.pairs and not cell.metric.optimised
        ],
        "failed": sum(row.failed for row in methods),
        "categories": category_rows(frame, independent, baselines),
        "independent": independent,
        "gallery": gallery,
        "has_overlay": has_overlay,
        "caveats": caveats(runs, metrics, has_overlay),
        "runs": [describe_run(run) for run in runs],
    }


def _facts(runs: Sequence[Run], frame: pd.DataFrame) -> dict[str, str]:
    shown = {
        "Pairs": text.number(frame["pair_id"].nunique(), 0),
        "Prompts": text.number(frame["prompt"].nunique(), 0),
        "Methods": text.number(frame["label"].nunique(), 0),
    }
    return shown | facts(runs[0])


def _environment() -> Environment:
    # Not select_autoescape: it looks at the suffix, and .j2 would switch escaping off.
    environment = Environment(
        loader=PackageLoader("sgool.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": text.number,
        "show": text.show,
        "show_difference": text.show_difference,
        "show_interval": text.show_interval,
        "verdict": text.verdict,
    }
    templates = resources.files("sgool.report") / "templates"
    for name in ("style.css", "gallery.js"):  # our own files, the only text that is not escaped
        environment.globals[name.replace(".", "_")] = Markup((templates / name).read_text(encoding="utf-8"))
    return environment
