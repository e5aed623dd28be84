"""Scene accuracy against the number of network calls, from runs of several budgets: a table and a figure.

python -m experiments.which_method.curves [FOLDER] [--model student] [--set hard] [--csv FILE] [--figure curves.svg]

FOLDER is the ``--out`` of ``experiments.which_method.run``, called with several ``--calls``, or a CSV file that an
earlier call wrote. At each budget the methods are compared on the pairs that all of them have finished; large budgets
may have fewer of them, and the table says how many.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.which_method.run import METHODS
from experiments.which_method.tables import difference, read_runs
from sgool.config.paths import home_path
from sgool.report.canvas import new_figure, style
from sgool.report.palette import method_looks
from sgool.report.stats import bootstrap_interval

#: Method -> calls -> its rows.
Curves = dict[str, dict[int, pd.DataFrame]]
_CAPTION = "The share of scenes that are right, with 95 % bootstrap intervals over prompts."
#: The method that the table compares with each of the others.
OURS = "sgool"
#: Of a row, in the CSV file.
COLUMNS = ("method", "budget", "pair", "prompt", "category", "scene", "judge", "calls", "seconds")


def read_curves(source: Path, model: str, prompts: str) -> Curves:
    """Reads the runs of all budgets of calls; at each budget the pairs that all its methods have.

    Methods that were run at a single budget are left out: they are no curve.

    Args:
        source: A folder of runs, or a CSV file of `write`, which is of one model and one set of prompts.
        model: Of `experiments.which_method.run.MODELS`.
        prompts: Prompt set of the embedded world.
    """
    found: Curves = {name: {} for name in METHODS}
    if source.is_file():
        for (name, calls), rows in pd.read_csv(source).groupby(["method", "budget"]):
            found[name][calls] = rows.set_index("pair")
    for path in source.glob(f"{model}-{prompts}-calls-*"):
        for name, rows in read_runs(path).items():
            found[name][int(path.name.rpartition("-")[2])] = rows
    curves = {name: runs for name, runs in found.items() if len(runs) > 1}
    common = {calls: _common(curves, calls) for calls in _budgets(curves)}
    return {
        name: {calls: rows.loc[common[calls]] for calls, rows in sorted(runs.items())} for name, runs in curves.items()
    }


def _budgets(curves: Curves) -> list[int]:
    return sorted({calls for runs in curves.values() for calls in runs})


def _common(curves: Curves, calls: int) -> list[str]:
    return sorted(set.intersection(*(set(runs[calls].index) for runs in curves.values() if calls in runs)))


def write(curves: Curves, file: Path) -> None:
    """Writes a row for each method, budget and pair; `read_curves` reads them again."""
    rows = [
        rows.reset_index().assign(method=name, budget=calls)
        for name, runs in curves.items()
        for calls, rows in runs.items()
    ]
    pd.concat(rows)[list(COLUMNS)].round(4).to_csv(file, index=False, lineterminator="\n")


def table(curves: Curves) -> str:
    """Returns a Markdown table: a row for each method, a column for each budget, with 95 % intervals over prompts.

    Below the methods it has the differences of `OURS` from each of them on the same pairs, and the numbers of pairs.
    """
    budgets = _budgets(curves)
    lines = [["method", *(f"{calls:,} calls" for calls in budgets)], ["---"] * (1 + len(budgets))]
    for name, runs in curves.items():
        lines.append([name, *(_cell(runs[calls]) if calls in runs else "" for calls in budgets)])
    ours = curves.get(OURS, {})
    for name, runs in curves.items():
        if name != OURS and (both := ours.keys() & runs.keys()):
            cells = [difference(ours[calls], runs[calls], "scene") if calls in both else "" for calls in budgets]
            lines.append([f"{OURS} minus {name}", *cells])
    lines.append(["pairs", *(str(len(_common(curves, calls))) for calls in budgets)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _interval(rows: pd.DataFrame) -> tuple[float, float] | None:
    return bootstrap_interval(rows["scene"].to_numpy(), rows["prompt"].to_numpy())


def _cell(rows: pd.DataFrame) -> str:
    ends = _interval(rows)
    return f"{rows['scene'].mean():.1f} %" + ("" if ends is None else f" [{ends[0]:.0f}, {ends[1]:.0f}]")


def draw(curves: Curves, file: Path) -> None:
    """Writes the figure as SVG: the share of right scenes against the calls, with 95 % intervals over prompts."""
    budgets = _budgets(curves)
    with style():
        figure, axes = new_figure("curves", 9)
        looks = method_looks(curves)
        for number, (name, runs) in enumerate(curves.items()):
            look, shares = looks[name], [rows["scene"].mean() for rows in runs.values()]
            # Side by side, so that intervals of one budget can be told apart.
            places = [calls * 1.03 ** (number - len(curves) / 2) for calls in runs]
            axes.plot(places, shares, **look.point(), linestyle=look.line, linewidth=1.4, label=name)
            for place, rows in zip(places, runs.values(), strict=True):
                axes.plot([place, place], _interval(rows) or (0, 0), color=look.light, linewidth=0.9)
        axes.set_xscale("log")
        axes.set_xticks(budgets, [f"{calls:,}" for calls in budgets], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(axis="both", which="major")
        axes.set_ylim(0, 100)
        axes.set_xlabel("network calls per pair (log.)")
        axes.set_ylabel("scenes right (%)")
        figure.legend(axes)
        about = "Right scenes against network calls"
        file.write_text(figure.done(about, _CAPTION, f"{about}: a curve for each method.").svg, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=home_path, default=Path("runs/which_method"))
    parser.add_argument("--model", default="student")
    parser.add_argument("--set", default="hard", dest="prompts")
    parser.add_argument("--csv", type=home_path, help="writes a row for each method, budget and pair")
    parser.add_argument("--figure", type=home_path, default=Path("curves.svg"))
    given = parser.parse_args(argv)
    curves = read_curves(given.folder, given.model, given.prompts)
    if not curves:
        parser.error(f"{given.folder} has no method with runs of two budgets of calls ({given.model}, {given.prompts})")
    print(table(curves))
    if given.csv:
        write(curves, given.csv)
    draw(curves, given.figure)


if __name__ == "__main__":
    main()
