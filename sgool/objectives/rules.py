"""Rules for the values of terms' options."""

from __future__ import annotations

import math
from typing import Any

from sgool.config.rules import Rule, choice


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_fractions(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(_is_number(v) and 0 <= v <= 1 for v in value)


def _is_box(value: Any) -> bool:
    return _is_fractions(value, 4) and value[0] < value[2] and value[1] < value[3]


#: What a term sees.
VIEWS = choice("crops", "whole")
#: Where a score is to go.
GOAL = Rule(
    "maximize, minimize or a number to aim at", lambda value: value in ("maximize", "minimize") or _is_number(value)
)
#: A colour.
RGB = Rule("red, green and blue, each in [0, 1]", lambda value: _is_fractions(value, 3))
#: A part of the image.
BOX = Rule("[top, left, bottom, right] as growing fractions in [0, 1]", _is_box)
