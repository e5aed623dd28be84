"""The axis of the intervals on the page: round numbers in their places, zero among them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from sgool.report.metrics import Metric
from sgool.report.panel import Panel


def panel(low: float, high: float, scale: float = 1.0) -> Panel:
    return Panel(Metric("m", "M", scale=scale), 0, low, high)


@pytest.mark.parametrize(
    ("low", "high", "scale", "texts"),
    [
        (-0.15, 2.6, 1.0, ["0", "1", "2"]),
        (-2.1, 1.4, 1.0, ["−2", "−1", "0", "1"]),
        (-1.0, 1.0, 100.0, ["−100", "−50", "0", "50", "100"]),
        (-0.04, 0.8, 100.0, ["0", "25", "50", "75"]),
        (-0.0031, 0.0012, 1.0, ["−0.002", "0", ]),
        (-9.0, 1.0, 1.0, ["−7.5", "−5.0", "−2.5", "0"]),
        (-100.0, 4000.0, 1.0, ["0", "2\u202f000", "4\u202f000"]),
    ],
)  # fmt: skip
def test_numbers_are_round(low: float, high: float, scale: float, texts: list[str]) -> None:
    assert [tick.text for tick in panel(low, high, scale).ticks] == texts


def test_any_scale_has_zero_and_room() -> None:
    for seed in range(300):
        draw = np.random.default_rng(seed)
        size = 10.0 ** draw.uniform(-6, 6)
        low, high = -size * draw.uniform(0, 1), size * draw.uniform(0.001, 1)
        ticks = panel(low, high, draw.choice([1.0, 100.0])).ticks
        assert [tick.text for tick in ticks if tick.zero] == ["0"]
        assert 1 <= len(ticks) <= 5
        places = [tick.place for tick in ticks]
        assert all(-0.01 <= place <= 100.01 for place in places)
        assert all(after - before > 19 for before, after in pairwise(places))
        values = [float(tick.text.replace("−", "-").replace("\u202f", "")) for tick in ticks]
        steps = [after - before for before, after in pairwise(values)]
        assert all(math.isclose(step, steps[0], rel_tol=1e-6) for step in steps)
