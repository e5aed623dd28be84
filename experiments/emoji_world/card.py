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
    file, log = results / "metrics.json", results / "logs" / "summary.json"
    if not file.is_file():
        raise SgoolError(f"expected {file}, which the stage `evaluate` writes; run that first")
    metrics = json.loads(file.read_text(encoding="utf-8"))
    training = json.loads(log.read_text(encoding="utf-8")) if log.is_file() else {}
    card = assets / "README.md"
    card.write_text(render(metrics, training, check_size(assets)), encoding="utf-8")
    return card


def render(metrics: dict, training: dict, size: float) -> str:
    """The card's text; ``size`` in MiB."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    samples = metrics["samples"]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
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
