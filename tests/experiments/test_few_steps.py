"""The costs of a repaired pair: the settings, and the table of a small run."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.few_steps.run import COMMON, HEADER, HELD_OUT, SETTINGS, TUNING, markdown, rows
from sgool.run.config import load_config

SMALL = (
    *HELD_OUT[:1],
    "models.device=cpu",
    "optimization.num_optimization_steps=1",
    "objective.crops.num=2",
    "trainer.precision=32-true",
)


@pytest.mark.parametrize("more", [HELD_OUT, TUNING])
@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_setting_composes(name: str, more: tuple[str, ...]) -> None:
    config = load_config([*COMMON, *SETTINGS[name], *more])
    steps = int(name.split(", ")[1].split()[0])
    assert config.sampler.num_inference_steps == steps
    assert config.sampler.guidance_scale == (1 if name.startswith("student") else 4)


def test_a_row_compares_with_the_first_setting(tmp_path: Path) -> None:
    table = rows(["student, 2 steps", "student, 1 step"], 1, tmp_path, SMALL)
    assert [row[:2] for row in table] == [["student, 2 steps", "1"], ["student, 1 step", "1"]]
    # An update is computed twice but for its last call, and the image after it once more.
    assert [row[2] for row in table] == ["6", "3"] and table[0][4] == "1x"
    text = markdown(table)
    assert text.startswith(f"| {' | '.join(HEADER)} |") and text.count("\n") == 4
