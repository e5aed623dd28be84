"""Writes the experiment's table: every method against vanilla, and sgool against doodl, with 95 % intervals.

python -m experiments.first_light.table runs/first_light [--out experiments/first_light/results.md]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from sgool.report import paired_difference
from sgool.report.load import load_runs, to_frame

#: Metric -> title, factor, digits.
METRICS = {
    "judge/clip_score": ("judge CLIP score", 1, 2),
    "guide/clip_score": ("guide CLIP score (optimised)", 1, 2),
    "scene_accuracy": ("scene accuracy, %", 100, 1),
    "scene/objects": ("right objects, %", 100, 1),
    "scene/count": ("right counts, %", 100, 1),
    "scene/colours": ("right colours, %", 100, 1),
    "scene/relation": ("right relation, %", 100, 1),
}


def difference_text(frame: pd.DataFrame, method: str, other: str, metric: str) -> str:
    """Mean difference, 95 % interval and wins/draws/losses: `+1.20 [+0.50, +1.90], 40/10/14`."""
    _, factor, digits = METRICS[metric]
    rows = {
        name: frame[(frame["method"] == name) & (frame["status"] == "done")].set_index("pair_id")
        for name in (method, other)
    }
    result = paired_difference(rows[method][metric], rows[other][metric], rows[method]["prompt"])
    low, high = (f"{factor * v:+.{digits}f}" if v is not None else "–" for v in (result.low, result.high))
    counts = f"{result.wins}/{result.draws}/{result.losses}"
    return f"{factor * result.difference:+.{digits}f} [{low}, {high}], {counts}"


def table(frame: pd.DataFrame) -> list[str]:
    """The lines of the table in Markdown."""
    methods = list(dict.fromkeys(frame["method"]))
    lines = ["| metric | pairs | " + " | ".join(methods) + " | doodl - vanilla | sgool - vanilla | sgool - doodl |"]
    lines.append("|---" * (len(methods) + 5) + "|")
    for metric, (title, factor, digits) in METRICS.items():
        counted = frame[(frame["method"] == methods[0])][metric].notna().sum()
        means = [f"{factor * frame[frame['method'] == m][metric].mean():.{digits}f}" for m in methods]
        pairs = [("doodl", "vanilla"), ("sgool", "vanilla"), ("sgool", "doodl")]
        differences = [difference_text(frame, a, b, metric) for a, b in pairs]
        lines.append("| " + " | ".join([title, str(counted), *means, *differences]) + " |")
    for column, title in (("network_evaluations", "network calls a pair"), ("seconds", "seconds a pair")):
        means = [f"{frame[frame['method'] == m][column].mean():.1f}" for m in methods]
        lines.append("| " + " | ".join([title, str(len(frame) // len(methods)), *means, "", "", ""]) + " |")
    return lines


def categories(frame: pd.DataFrame) -> list[str]:
    """Scene accuracy per category and method, in Markdown."""
    methods = list(dict.fromkeys(frame["method"]))
    lines = ["| scene accuracy, % | pairs | " + " | ".join(methods) + " |", "|---" * (len(methods) + 2) + "|"]
    for category, part in frame.groupby("category", sort=False):
        means = [f"{100 * part[part['method'] == m]['scene_accuracy'].mean():.0f}" for m in methods]
        lines.append("| " + " | ".join([str(category), str(len(part) // len(methods)), *means]) + " |")
    return lines


def main() -> None:
    """Writes and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.md")
    arguments = parser.parse_args()
    frame = to_frame(load_runs([arguments.run]))
    text = "\n".join([*table(frame), "", *categories(frame)]) + "\n"
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
