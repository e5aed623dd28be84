"""Writes the model card from the measured numbers and the template ``card.md.j2``."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2

from experiments.emoji_world.evaluate import CHECKS
from experiments.emoji_world.export import check_size
from sgool.errors import SgoolError

TEMPLATE = Path(__file__).with_name("card.md.j2")


def write_card(results: Path, assets: Path) -> Path:
    """Writes ``assets/README.md`` from ``results/metrics.json`` and, if there, ``results/logs/summary.json``.

    Raises:
        SgoolError: Nothing was measured yet.
    """
    metrics, training = (measured(results, name) for name in ("metrics.json", "logs/summary.json"))
    card = assets / "README.md"
    card.write_text(render(metrics, training, check_size(assets)), encoding="utf-8")
    return card


def measured(results: Path, name: str) -> dict:
    """A JSON file of the results; empty if it is not there.

    Raises:
        SgoolError: ``metrics.json`` is not there.
    """
    file = results / name
    if not file.is_file() and name == "metrics.json":
        raise SgoolError(f"expected {file}, which the stage `evaluate` writes; run that first")
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def environment() -> jinja2.Environment:
    """Refuses names that a template does not get."""
    return jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)


def render(metrics: dict, training: dict, size: float) -> str:
    """The card's text; ``size`` in MiB."""
    samples = metrics["samples"]
    return (
        environment()
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            **{key: metrics[key] for key in ("bars", "samples", "settings")},
            seen={name: metrics[name]["seen"] for name in ("guide", "judge")},
            failed=[row for row in metrics["bars"] if not row["met"]],
            weakest=[
                f"{name} ({samples[name]['all']:.2f})" for name in sorted(samples, key=lambda n: samples[n]["all"])[:3]
            ],
            training={name: {"lost_before": None, **row} for name, row in training.items()},
            checks=CHECKS,
            size=size,
        )
    )
