"""Runs the methods on each prompt set in turn: ``python -m experiments.prompt_sets.run [KEY=VALUE ...]``.

One run folder per set; each resumes by itself. With ``--real DIR`` the sets are the paper's, from the files csp.csv,
drawbench.csv and daily_dalle.txt in DIR, and the experiment is that for real weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.prompt_sets.prompts import FOLDER, SETS
from sgool import fit
from sgool.config.paths import home_path

#: Choice of ``data`` -> the file that --real looks for.
REAL = {"csp": "csp.csv", "drawbench": "drawbench.csv", "daily_dalle": "daily_dalle.txt"}


def main(argv: Sequence[str] | None = None) -> None:
    """Fits every set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=home_path, default=Path("runs/prompt_sets"))
    parser.add_argument("--real", type=home_path, metavar="DIR", help="folder of the paper's prompts")
    parser.add_argument("--sets", nargs="*", choices=[*SETS, *REAL], metavar="NAME", help="default: all three")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    for name in arguments.sets or (SETS if arguments.real is None else REAL):
        fit(*choices(name, arguments.real), f"run_dir='{arguments.out / name}'", *arguments.overrides)


def choices(name: str, real: Path | None = None) -> list[str]:
    """The experiment and the data of a set."""
    if real is None:
        return ["experiment=prompt_sets_embedded", f"data.prompts='{FOLDER / name}.csv'"]
    return ["experiment=prompt_sets", f"data={name}", f"data.prompts='{real / REAL[name]}'"]


if __name__ == "__main__":
    main()
