"""Writes the model cards of the emoji world and its student from the measured numbers and two templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from experiments.emoji_world.evaluate import CHECKS, student_bars
from experiments.emoji_world.export import check_size
from sgool.errors import SgoolError

HERE = Path(__file__).resolve().parent
TEMPLATE, STUDENT_TEMPLATE = HERE / "card.md.j2", HERE / "card_turbo.md.j2"


def write_cards(results: Path, assets: Path, turbo: Path) -> list[Path]:
    """Writes README.md into both folders of assets; the student's only if it has been measured.

    Raises:
        SgoolError: Nothing was measured yet.
    """
    metrics, training, further, table = (
        measured(results, name)
        for name in ("metrics.json", "logs/summary.json", "second/logs/summary.json", "turbo.json")
    )
    stages = training | {f"{name}, trained further": row for name, row in further.items() if name in training}
    card = assets / "README.md"
    card.write_text(render(metrics, stages, check_size(assets)), encoding="utf-8")
    if not table:
        return [card]
    student = turbo / "README.md"
    text = render_student(table, training | further, check_size(turbo), student_bars(table), STUDENT_TEMPLATE)
    student.write_text(text, encoding="utf-8")
    return [card, student]


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


def render_student(
    table: Mapping, training: Mapping, size: float, bars: Sequence[Mapping], template: Path = STUDENT_TEMPLATE
) -> str:
    """A student's card.

    Args:
        table: What `measure_turbo` wrote.
        training: Of each stage, by its name.
        size: In MiB.
        bars: The student's bars.
        template: Of which world.
    """
    names = [name for name in table["student, 4"] if name != "all"]
    steps = {name: training[name] for name in ("consistency", "matching") if name in training}
    text = environment().from_string(template.read_text(encoding="utf-8"))
    return text.render(table=table, categories=names, bars=bars, training=steps, size=size)
