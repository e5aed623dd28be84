"""The tables of which_method, from its run folders.

python -m experiments.which_method.tables FOLDER ... [--against NAME]

A FOLDER holds the run folders of one budget (``runs/which_method/student-hard-calls-100``). All methods are compared on
the pairs that every one of them has finished; intervals are 95 % bootstrap intervals over prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.which_method.run import METHODS
from sgool.report import paired_difference
from sgool.results.records import read_record

RIVAL = "best_of_n, same objective"


def read_runs(folder: Path) -> dict[str, pd.DataFrame]:
    """Reads the records of a budget's runs: name -> a row for each finished pair, indexed by pair id.

    Columns are ``prompt``, ``category``, ``scene`` (0 or 100), ``judge``, ``calls`` (forward and backward),
    ``seconds``, and the first two measures of the first image, ``scene_initial`` and ``judge_initial``.
    """
    found = {}
    for name in METHODS:
        run = folder / name.replace(",", "").replace(" ", "_")
        records = [read_record(path) for path in sorted(run.glob("pairs/*/*/record.json"))]
        rows = [
            {
                "pair": record.pair_id,
                "prompt": record.prompt,
                "category": record.category,
                "scene": 100 * record.metrics["scene_accuracy"],
                "scene_initial": 100 * record.metrics["scene_accuracy_initial"],
                "judge": record.metrics["judge/clip_score"],
                "judge_initial": record.metrics["judge/clip_score_initial"],
                "calls": record.network_evaluations + record.network_backward_passes,
                "seconds": record.seconds,
            }
            for record in records
            if record.status == "done"
        ]
        if rows:
            found[name] = pd.DataFrame(rows).set_index("pair")
    return found


def shared(runs: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Returns the rows of the pairs that all runs have."""
    common = sorted(set.intersection(*(set(run.index) for run in runs.values()))) if runs else []
    return {name: run.loc[common] for name, run in runs.items()}


def difference(one: pd.DataFrame, other: pd.DataFrame, measure: str) -> str:
    """Returns the mean difference of a measure, with its interval over prompts in brackets."""
    found = paired_difference(one[measure], other[measure], one["prompt"])
    interval = "" if found.low is None else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.difference:+.1f}{interval}"


def table(runs: dict[str, pd.DataFrame], against: Sequence[str]) -> str:
    """Returns a Markdown table: a row for each method, with its differences from some of them."""
    runs = shared(runs)
    against = [name for name in against if name in runs]
    head = ["method", "scenes right", *(f"minus {name}" for name in against), "judge", "calls", "seconds"]
    lines = [head, ["---"] * len(head)]
    for name, run in runs.items():
        differences = ["" if name == other else difference(run, runs[other], "scene") for other in against]
        means = [f"{run['judge'].mean():.1f}", f"{run['calls'].mean():.0f}", f"{run['seconds'].mean():.2f}"]
        lines.append([name, f"{run['scene'].mean():.1f} %", *differences, *means])
    number = len(next(iter(runs.values())))
    prompts = next(iter(runs.values()))["prompt"].nunique()
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{text}\n{number} pairs of {prompts} prompts.\n"


def by_category(runs: dict[str, pd.DataFrame]) -> str:
    """Returns a Markdown table of the share of right scenes in each category."""
    runs = shared(runs)
    categories = sorted(next(iter(runs.values()))["category"].unique())
    lines = [["method", *categories], ["---"] * (1 + len(categories))]
    for name, run in runs.items():
        means = run.groupby("category")["scene"].mean()
        lines.append([name, *(f"{means[category]:.1f} %" for category in categories)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--against", nargs="+", default=[RIVAL, "sgool"], metavar="NAME")
    given = parser.parse_args(argv)
    for folder in given.folders:
        runs = read_runs(folder)
        print(f"## {folder.name}\n\n{table(runs, given.against)}\n{by_category(runs)}")


if __name__ == "__main__":
    main()
