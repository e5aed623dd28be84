"""Edits every photo in both directions: ``python -m experiments.aesthetic.run [KEY=VALUE ...]``.

One run folder per direction, each of which resumes by itself; judges score them at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.aesthetic.photos import Photo, photos
from sgool.cli.console import ConsoleProgress
from sgool.config.paths import home_path
from sgool.run.config import load_config
from sgool.run.edit import Edit, edit_images
from sgool.run.rescore import rescore

#: Name of the run folder -> what the edit is after.
GOALS: dict[str, tuple[str, ...]] = {
    "up": (),
    "down": ("objective.terms.aesthetic.goal=minimize",),
    # No taste at all, with steps of the same size: `experiments.aesthetic.control`.
    "random": (
        "objective.terms.aesthetic.weight=0",
        "+objective.terms.random={_target_: experiments.aesthetic.control.RandomPattern}",
    ),
}
#: Photos in one fit: a small network is not busy with one.
TOGETHER = ("trainer.pairs_per_fit=4",)


def edit_all(chosen: Sequence[Photo], run_dir: Path, overrides: Sequence[str]) -> None:
    """One run folder with an edit of each photo, judged.

    Judges that read are told what the photo shows; the denoising network is told nothing, as in the paper.
    """
    config = load_config(["experiment=edit_aesthetic_embedded", f"run_dir='{run_dir}'", *TOGETHER, *overrides])
    with ConsoleProgress() as progress:
        edit_images(config, [Edit(photo.file, text=photo.text) for photo in chosen], progress)
    rescore(run_dir)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the goals in turn."""
    parser = argparse.ArgumentParser(prog="python -m experiments.aesthetic.run", description=__doc__)
    parser.add_argument("--out", type=home_path, default=Path("runs/aesthetic_embedded"))
    parser.add_argument("--goals", nargs="*", default=list(GOALS), choices=list(GOALS), metavar="GOAL")
    parser.add_argument("--photos", choices=("evaluated", "tuned"), default="evaluated", help="tuned: for settings")
    parser.add_argument("--limit", type=int, default=None, help="so many photos, from the first")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    for goal in arguments.goals:
        overrides = [*GOALS[goal], *arguments.overrides]
        edit_all(photos(arguments.photos)[: arguments.limit], arguments.out / goal, overrides)


if __name__ == "__main__":
    main()
