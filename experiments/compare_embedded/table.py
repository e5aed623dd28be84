"""Writes the experiment's tables: every method against vanilla, best_of_n and doodl, with 95 % intervals.

python -m experiments.compare_embedded.table runs/compare_embedded [--out experiments/compare_embedded/results.md]
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
    "scene_accuracy": ("scene accuracy, %", 100, 1),
    "guide/clip_score": ("guide CLIP score (optimised)", 1, 2),
}
AGAINST = ("vanilla", "best_of_n", "doodl")


def difference_text(frame: pd.DataFrame, method: str, other: str, metric: str) -> str:
    """Mean difference, 95 % interval and wins/draws/losses: `+1.20 [+0.50, +1.90], 40/10/14`; bold where clear."""
    _, factor, digits = METRICS[metric]
    rows = {
        name: frame[(frame["method"] == name) & (frame["status"] == "done")].set_index("pair_id")
        for name in (method, other)
    }
    result = paired_difference(rows[method][metric], rows[other][metric], rows[method]["prompt"])
    low, high = (f"{factor * v:+.{digits}f}" if v is not None else "–" for v in (result.low, result.high))
    text = f"{factor * result.difference:+.{digits}f} [{low}, {high}], {result.wins}/{result.draws}/{result.losses}"
    return f"**{text}**" if result.clear else text


def table(frame: pd.DataFrame, metric: str) -> list[str]:
    """The lines of one metric's table in Markdown, one row a method."""
    title, factor, digits = METRICS[metric]
    methods = list(dict.fromkeys(frame["method"]))
    others = [name for name in AGAINST if name in methods]
    lines = [f"| {title} | pairs | mean | " + " | ".join(f"against {name}" for name in others) + " |"]
    lines.append("|---" * (len(others) + 3) + "|")
    for method in methods:
        own = frame[(frame["method"] == method) & (frame["status"] == "done")]
        mean = f"{factor * own[metric].mean():.{digits}f}"
        differences = ["" if method == name else difference_text(frame, method, name, metric) for name in others]
        lines.append("| " + " | ".join([method, str(int(own[metric].notna().sum())), mean, *differences]) + " |")
    return lines


def costs(frame: pd.DataFrame) -> list[str]:
    """Network calls and seconds a pair, and pairs that failed, in Markdown."""
    lines = ["| cost | network calls a pair | seconds a pair | failed |", "|---|---|---|---|"]
    for method in dict.fromkeys(frame["method"]):
        own = frame[frame["method"] == method]
        calls, seconds = own["network_evaluations"].mean(), own["seconds"].mean()
        failed = int((own["status"] != "done").sum())
        lines.append(f"| {method} | {calls:.1f} | {seconds:.1f} | {failed} |")
    return lines


def categories(frame: pd.DataFrame) -> list[str]:
    """Scene accuracy per category and method, in Markdown."""
    methods = list(dict.fromkeys(frame["method"]))
    lines = ["| scene accuracy, % | pairs | " + " | ".join(methods) + " |", "|---" * (len(methods) + 2) + "|"]
    for category, part in frame.groupby("category", sort=False):
        means = [f"{100 * part[part['method'] == m]['scene_accuracy'].mean():.0f}" for m in methods]
        lines.append("| " + " | ".join([str(category), str(part["pair_id"].nunique()), *means]) + " |")
    return lines


def main() -> None:
    """Writes and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.md")
    arguments = parser.parse_args()
    frame = to_frame(load_runs([arguments.run]))
    lines = [line for metric in METRICS for line in (*table(frame, metric), "")]
    text = "\n".join([*lines, *costs(frame), "", *categories(frame)]) + "\n"
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
