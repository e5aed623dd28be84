"""Formats numbers as text, with a real minus sign, and an en dash where there is none."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from sgool.report.metrics import Metric
from sgool.report.stats import PairedDifference

NOTHING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 1) -> str:
    """Formats a number like ``12.3``, with thin spaces between thousands."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", _MINUS)


def signed(value: float | None, digits: int = 1) -> str:
    """Formats a number with its sign, like ``+1.2`` or ``−0.3``; what rounds to zero is ``0.0``."""
    if value is None or math.isnan(value):
        return NOTHING
    rounded = round(value, digits)
    return ("+" if rounded > 0 else "") + number(abs(rounded) if rounded == 0 else rounded, digits)


def show(value: float | None, metric: Metric) -> str:
    """Formats a metric's value in its unit."""
    return number(value, 0) if value is None else _unit(number(value * metric.scale, metric.digits), metric.unit)


def show_difference(value: float | None, metric: Metric) -> str:
    """Formats a difference of two values of a metric in its unit."""
    if value is None:
        return NOTHING
    return _unit(signed(value * metric.scale, metric.digits), metric.difference_unit)


def show_interval(difference: PairedDifference, metric: Metric) -> str:
    """Formats an interval like ``+0.4 to +2.1``, or says why there is none (see ``FEWEST_GROUPS``)."""
    if difference.low is None or difference.high is None:
        return "no pairs" if difference.pairs == 0 else "too few prompts"
    low, high = (signed(end * metric.scale, metric.digits) for end in (difference.low, difference.high))
    return f"{low} to {high}"


def verdict(difference: PairedDifference, metric: Metric) -> str:
    """Returns ``better`` or ``worse``; ``unclear`` if the difference is not clear or the metric is no judge."""
    if not difference.clear or not metric.judges:
        return "unclear"
    return "better" if difference.difference * metric.direction > 0 else "worse"


def p_value(value: float | None) -> str:
    """Formats a p-value like ``0.012`` or ``< 0.001``; an en dash if there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    return "<\N{NARROW NO-BREAK SPACE}0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def with_fitting_digits(metric: Metric, values: pd.Series | None) -> Metric:
    """Returns the metric with more decimals if its values are small: HPS comes as 0.27 or as 27."""
    if values is None or metric.scale != 1.0 or values.abs().max() >= 2.0:
        return metric
    return replace(metric, digits=max(metric.digits, 4))


def _unit(text: str, unit: str) -> str:
    return text if text == NOTHING else text + unit.replace(" ", "\N{NARROW NO-BREAK SPACE}")
