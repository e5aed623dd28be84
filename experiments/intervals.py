"""Tables of experiments: intervals of shares and of paired differences as text, and the files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sgool.report import paired_difference

#: Two-sided 95 % of the normal distribution.
Z = 1.959963984540054


def wilson(hits: int, number: int, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a share (1927); also sound near 0 and 1, where the usual one has no width.

    Args:
        hits: Successes among ``number`` independent trials.
        number: At least 1.
        z: Quantile of the normal distribution.
    """
    if not 0 <= hits <= number or number < 1:
        raise ValueError(f"expected 0 <= hits <= number and number >= 1, got {hits} of {number}")
    share, extra = hits / number, z * z / number
    middle = share + extra / 2
    half = z * math.sqrt(share * (1 - share) / number + extra / (4 * number))
    return max(0.0, (middle - half) / (1 + extra)), min(1.0, (middle + half) / (1 + extra))


def share_text(values: pd.Series) -> str:
    """Count, percentage and Wilson interval of values 0 and 1: ``12/48 = 25 % [15, 39]``."""
    hits, number = int(values.sum()), len(values)
    low, high = wilson(hits, number)
    return f"{hits}/{number} = {100 * hits / number:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def difference_text(values: pd.Series, others: pd.Series, groups: pd.Series, factor: float, digits: int) -> str:
    """Mean difference with a bootstrap interval over whole groups, then wins/draws/losses."""
    result = paired_difference(values.astype(float), others.astype(float), groups)
    ends = (f"{factor * end:+.{digits}f}" if end is not None else "–" for end in (result.low, result.high))
    return f"{factor * result.difference:+.{digits}f} [{', '.join(ends)}], {result.wins}/{result.draws}/{result.losses}"


def by_method(rows: pd.DataFrame, index: list[str]) -> dict[str, pd.DataFrame]:
    """The rows of each method in the order vanilla, best_of_n, doodl, indexed alike so that pairs meet."""
    known = [name for name in ("vanilla", "best_of_n", "doodl") if name in set(rows["method"])]
    return {name: rows[rows["method"] == name].set_index(index).sort_index() for name in known}


def head(methods: dict[str, pd.DataFrame], first: str) -> list[str]:
    """The first two lines of a table with a column per method and two of differences."""
    names = [first, *methods, *(f"doodl - {name}" for name in methods if name != "doodl")]
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def differences(methods: dict[str, pd.DataFrame], measure: str, group: str, factor: float, digits: int) -> str:
    """Cells ``doodl - other``: bootstrap intervals over groups, an index level."""
    doodl = methods["doodl"]
    groups = pd.Series(doodl.index.get_level_values(group), index=doodl.index)
    others = [part[measure] for name, part in methods.items() if name != "doodl"]
    return " | ".join(difference_text(doodl[measure], other, groups, factor, digits) for other in others)


def costs(methods: dict[str, pd.DataFrame]) -> str:
    """A sentence on what a pair costs."""
    parts = (f"{name} {part['calls'].mean():.0f} and {part['seconds'].mean():.1f}" for name, part in methods.items())
    return f"Network calls and seconds a pair: {', '.join(parts)}."


def write_tables(out: Path, rows: pd.DataFrame, lines: Sequence[str]) -> None:
    """Writes ``out.csv`` and ``out.md``, and prints the tables."""
    rows.to_csv(out.with_suffix(".csv"), index=False)
    text = "\n".join(lines) + "\n"
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
