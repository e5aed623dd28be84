"""Writes the model cards of the emoji scenes and their student from the measured numbers."""

from __future__ import annotations

from pathlib import Path

from experiments.emoji_scenes.evaluate import student_bars
from experiments.emoji_world.card import environment, measured, render_student
from experiments.emoji_world.export import check_size
from sgool.metrics.scene import STATEMENTS

HERE = Path(__file__).resolve().parent
TEMPLATES = {"base": HERE / "card.md.j2", "student": HERE / "card_turbo.md.j2"}


def write_cards(results: Path, assets: Path, turbo: Path) -> list[Path]:
    """Writes README.md into both folders of assets; the student's only if it has been measured.

    Raises:
        SgoolError: Nothing was measured yet.
    """
    metrics, training, table = (measured(results, name) for name in ("metrics.json", "logs/summary.json", "turbo.json"))
    card = assets / "README.md"
    card.write_text(render(metrics, training, table, check_size(assets)), encoding="utf-8")
    if not table:
        return [card]
    student = turbo / "README.md"
    student.write_text(
        render_student(table, training, check_size(turbo), student_bars(table), TEMPLATES["student"]), encoding="utf-8"
    )
    return [card, student]


def render(metrics: dict, training: dict, table: dict, size: float) -> str:
    """The base's card; ``table`` is what `measure_turbo` wrote, or empty; ``size`` in MiB."""
    samples = metrics["samples"]
    bars = metrics["bars"] + (student_bars(table) if table else [])
    worst = sorted(samples, key=lambda name: samples[name]["all"])[:3]
    return (
        environment()
        .from_string(TEMPLATES["base"].read_text(encoding="utf-8"))
        .render(
            **{key: metrics[key] for key in ("vae", "saliency", "samples", "settings")},
            clips={name: metrics[name] for name in ("guide", "judge")},
            bars=bars,
            failed=[row for row in bars if not row["met"]],
            weakest=[f"{name} ({samples[name]['all']:.2f})" for name in worst],
            training=training,
            table=table,
            checks=(*STATEMENTS, "all"),
            size=size,
        )
    )
