"""Tries the settings of every method on the tuning prompts: as many for each.

python -m experiments.which_method.tune [NAME ...] [--calls 100] [--model student] [--out runs/which_method_tune]

The prompts are ``emoji_world/tune_hard``, none of which is evaluated, with seed 7. `sgool` has two settings that
matter, which are tried one after the other; the others have one each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.which_method.run import AT_LARGE_BUDGETS, BETWEEN_STEPS, MODELS, folder_of, run
from experiments.which_method.tables import read_runs
from sgool.config.paths import home_path


def _size(value: float) -> tuple[str, ...]:
    return (f"optimization.gradient_rms={value}", f"optimization.grad_clip_value={3 * value:.3f}")


#: Method -> what is tried: a label and its overrides.
TRIALS: dict[str, dict[str, tuple[str, ...]]] = {
    "doodl": {f"gradient_rms {value}": _size(value) for value in (0.006, 0.012, 0.024, 0.05)},
    "reno": {f"lr {value}": (f"method.reno.optimization.lr={value}",) for value in (5, 10, 20, 40)},
    "zero_order, same objective": {
        f"threshold {value}": (f"method.zero_order.threshold={value}",) for value in (0.4, 0.6, 0.8, 0.9, 0.95)
    },
    "evolution, same objective": {
        f"mutation {value}": (f"method.evolution.mutation={value}",) for value in (0.15, 0.3, 0.45, 0.6)
    },
    "sgool": {
        **{
            f"search_share {share}": (f"method.sgool.optimization.search_share={share}",)
            for share in (0.16, 0.32, 0.5, 0.75)
        },
        "gradient_rms 0.04": ("method.sgool.optimization.gradient_rms=0.04",),
    },
    "sgool, all updates that fit": {"nothing else": ()},
    "fk_steering, same objective": {
        f"scale {value}": (f"method.fk_steering.scale={value}",) for value in (30, 100, 300, 1000)
    },
    "clip_guidance": {
        f"clip_guidance_scale {value}": (f"method.clip_guidance.clip_guidance_scale={value}",)
        for value in (3, 10, 30, 100)
    },
    "best_of_n, same objective": {"nothing to tune": ()},
    "best_of_n": {"nothing to tune": ()},
}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default all: {'; '.join(TRIALS)}")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--model", choices=list(MODELS), default="student")
    parser.add_argument("--out", type=home_path, default=Path("runs/which_method_tune"))
    given = parser.parse_args(argv)
    print("| method | setting | scenes right | judge | calls | seconds |\n|---|---|---|---|---|---|")
    left_out = (*BETWEEN_STEPS, *AT_LARGE_BUDGETS) if given.model == "student" else AT_LARGE_BUDGETS
    for name in given.names or [name for name in TRIALS if name not in left_out]:
        for label, more in TRIALS[name].items():
            out, budget = given.out / label.replace(" ", "_"), f"budget.calls={given.calls}"
            run([name], out, budget, given.model, "tune_hard", 48, [7], more)
            rows = read_runs(folder_of(out, given.model, "tune_hard", budget, name).parent)[name]
            means = rows[["scene", "judge", "calls", "seconds"]].mean()
            text = f"{means['scene']:.1f} % | {means['judge']:.1f} | {means['calls']:.0f} | {means['seconds']:.2f}"
            print(f"| {name} | {label} | {text} |", flush=True)


if __name__ == "__main__":
    main()
