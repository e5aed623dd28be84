"""What does a repaired pair cost? The reference (EDICT, 50 steps), DDIM, and the few-step student, in one run.

python -m experiments.few_steps.run [NAME ...] [--pairs 32] [--out runs/few_steps] [--tune]

Every setting repairs the same held-out pairs with `doodl`, on one thread; a run that was interrupted goes on. With
``--tune``, each setting runs in float32 with several sizes of its updates on the tuning prompts instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from sgool import fit
from sgool.config.paths import home_path
from sgool.report import summary_rows

COMMON = ("methods=[vanilla,doodl]", "logger=none", "trainer.threads=1")
#: Name -> the overrides that make it, the reference first.
SETTINGS: dict[str, tuple[str, ...]] = {
    "EDICT, 50 steps": (
        "models=emoji_world",
        "sampler=edict",
        "sampler.num_inference_steps=50",
        "sampler.guidance_scale=4",
    ),
    "DDIM, 12 steps": ("models=emoji_world",),
    "student, 4 steps": ("models=emoji_world_turbo",),
    "student, 2 steps": ("models=emoji_world_turbo", "sampler.num_inference_steps=2"),
    "student, 1 step": ("models=emoji_world_turbo", "sampler.num_inference_steps=1"),
}
#: Root mean squares of an update that `--tune` tries; elements are clipped at three times as much.
SIZES = (0.003, 0.006, 0.012, 0.024, 0.048)
HEADER = ("setting", "pairs", "forward passes", "seconds", "faster", "judge before", "judge", "scene before", "scene")


#: What is measured, and what sizes are tried on; none of the latter's pairs is measured.
HELD_OUT = ("data.prompts=emoji_world/heldout", "trainer.precision=bf16-mixed")
TUNING = ("data.prompts=emoji_world/tune", "data.seeds=[7]", "trainer.precision=32-true")


def rows(names: Sequence[str], pairs: int, out: Path, more: Sequence[str] = HELD_OUT) -> list[list[str]]:
    """Runs the settings and returns a row of the table for each; seconds are those of a pair of `doodl`.

    Args:
        names: Of `SETTINGS`; ``faster`` compares with the first of them.
        pairs: How many of the first pairs are run.
        out: Folder of the run folders.
        more: Overrides that name the prompts.
    """
    table: list[list[str]] = []
    reference = 0.0
    for name in names:
        folder = out / name.replace(",", "").replace(" ", "_")
        outcome = fit(*COMMON, *SETTINGS[name], *more, f"data.limit={pairs}", f"run_dir={folder}")
        records = [record for record in outcome.records if record.method == "doodl"]
        (row,) = summary_rows(records)
        # `network_calls` of the row counts the backward passes as well, as budgets do; this experiment has none.
        passes = fmean(record.network_evaluations for record in records if record.status == "done")
        reference = reference or row["seconds"]
        table.append(
            [
                name,
                str(row["pairs"]),
                f"{passes:.0f}",
                f"{row['seconds']:.2f}",
                f"{reference / row['seconds']:.0f}x",
                f"{row['judge_initial']:.1f}",
                f"{row['judge_final']:.1f}",
                f"{100 * row['scene_initial']:.0f} %",
                f"{100 * row['scene_final']:.0f} %",
            ]
        )
        print(" | ".join(table[-1]), flush=True)
    return table


def tune(names: Sequence[str], pairs: int, out: Path) -> None:
    """Prints the rows of every size of the updates, on prompts that nothing is measured on."""
    for size in SIZES:
        print(f"gradient_rms {size}, grad_clip_value {3 * size:.3f}")
        own = (f"optimization.gradient_rms={size}", f"optimization.grad_clip_value={3 * size:.3f}")
        rows(names, pairs, out / f"tune_{size}", (*TUNING, *own))


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The table of docs/chain.md."""
    lines = [HEADER, ["---"] * len(HEADER), *table]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(SETTINGS), metavar="NAME", help="; ".join(SETTINGS))
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--out", type=home_path, default=Path("runs/few_steps"))
    parser.add_argument("--tune", action="store_true", help="try sizes of the updates on the tuning prompts")
    arguments = parser.parse_args(argv)
    if arguments.tune:
        tune(arguments.names, arguments.pairs, arguments.out)
    else:
        print(markdown(rows(arguments.names, arguments.pairs, arguments.out)))


if __name__ == "__main__":
    main()
