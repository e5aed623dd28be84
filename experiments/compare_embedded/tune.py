"""Chooses the scale of clip_guidance and the learning rate of reno on the tuning prompts, none of which is evaluated.

python -m experiments.compare_embedded.tune [NAME ...] [--limit 12] [--out runs/tune_baselines]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sgool import fit
from sgool.config.paths import home_path
from sgool.report import summary_rows

COMMON = (
    "data.prompts=emoji_world/tune",
    "data.seeds=[7]",
    "logger=none",
    "trainer.pairs_per_fit=12",
    "trainer.precision=bf16-mixed",
)


def _guidance(scale: float, *more: str) -> tuple[str, ...]:
    return ("methods=[clip_guidance]", f"method.clip_guidance.clip_guidance_scale={scale}", *more)


def _reno(lr: float) -> tuple[str, ...]:
    return ("methods=[reno]", f"method.reno.optimization.lr={lr}")


#: Name -> overrides.
GRID: dict[str, tuple[str, ...]] = {
    **{f"guidance-{scale}": _guidance(scale) for scale in (1, 3, 10, 30, 100)},
    **{f"guidance-x0-{scale}": _guidance(scale, "method.clip_guidance.through_network=false") for scale in (3, 10, 30)},
    **{f"reno-{lr}": _reno(lr) for lr in (1, 2, 5, 10, 20)},
    "best_of_n": ("methods=[best_of_n]",),
    "doodl": ("methods=[doodl]",),
}


def main() -> None:
    """Runs the named settings (all by default) and prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(GRID), metavar="NAME", help=", ".join(GRID))
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--out", type=home_path, default=Path("runs/tune_baselines"))
    arguments = parser.parse_args()
    for name in arguments.names:
        outcome = fit(*COMMON, *GRID[name], f"data.limit={arguments.limit}", f"run_dir={arguments.out / name}")
        for row in summary_rows(list(outcome.records)):
            judge = f"judge {row['judge_initial']:.2f} -> {row['judge_final']:.2f}"
            scene = f"scene {row['scene_initial']:.3f} -> {row['scene_final']:.3f}"
            calls = f"{row['network_evaluations']:.0f} calls"
            print(f"{name:16s} n={row['pairs']} {judge} {scene} {calls} {row['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
